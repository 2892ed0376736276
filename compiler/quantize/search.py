"""Finds the operators that must stay in float32 so that a bound holds.

Operators are ranked by the error that each adds; the shortest head of that list that is enough is
found by doubling and bisection, and then what can be given back to int8 is, the most harmless
first. Each set is judged by running its quantised model on this machine: all sets share most of
their kernels, which are compiled once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from compiler.codegen import KernelCache
from compiler.errors import EdgeccError
from compiler.program import TensorInfo
from compiler.quantize.bound import Bound, Judge, Run
from compiler.quantize.data import CalibrationData
from compiler.quantize.labelled import Validation
from compiler.quantize.noise import Noise
from compiler.quantize.observe import ObservedModel, build_for_host
from compiler.quantize.ptq import Progress, Quantized, Quantizer
from compiler.quantize.qdq import Quantum
from compiler.quantize.recipe import Recipe, Rule
from compiler.quantize.regions import Region, weights_of
from compiler.quantize.request import io_tensors
from compiler.target import Target

# The ranking needs few samples.
RANKING_SAMPLES = 8
# Giving back ends when either is spent.
MAX_EVALUATIONS = 48
MAX_SECONDS = 900.0


@dataclass(frozen=True)
class Trade:
    """What a bound cost.

    Args:
        bound: as ``Bound`` prints it.
        measured_on: the samples, and how many they were.
        float32, int8, result: the bounded quantity of the float model, of all in int8 that the
            recipe allows, and of what was made, as people read it.
        layers: names of the operators that stay in float32 for the bound, in order of execution.
        candidates: how many the recipe allows in int8.
        weights: bytes of all weights in float32, in int8, and in what was made.
        evaluations: models that were measured.
        complete: whether nothing more could be given back; else time was up.
    """

    bound: str
    measured_on: str
    held_out: bool
    float32: str
    int8: str
    result: str
    layers: tuple[str, ...]
    candidates: int
    weights: dict[str, int]
    evaluations: int
    complete: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True)
class _Models:
    """Makes quantised models that run here."""

    quantizer: Quantizer
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    cache: KernelCache

    def rules(self, names: Sequence[str]) -> tuple[Rule, ...]:
        return tuple(Rule(name, precision="float32") for name in names)

    @contextmanager
    def floats(self) -> Iterator[Run]:
        with self._runner(self.quantizer.module, self.inputs, self.outputs) as run:
            yield run

    @contextmanager
    def quantized(self, found: Quantized) -> Iterator[Run]:
        """Takes and returns floats, whatever the model does."""
        of_inputs, of_outputs = found.of_inputs(), found.of_outputs()
        inputs = io_tensors(self.inputs, of_inputs)
        outputs = io_tensors(self.outputs, of_outputs)
        stored = dict(zip((o.name for o in outputs), of_outputs, strict=True))
        with self._runner(found.module, inputs, outputs) as run:

            def of_floats(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
                made = run(self.fed(found, sample))
                return {
                    name: value if (quantum := stored[name]) is None else quantum.dequantize(value)
                    for name, value in made.items()
                }

            yield of_floats

    def fed(self, found: Quantized, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A sample as the quantised model takes it."""
        pairs = zip(self.inputs, found.of_inputs(), strict=True)
        return {
            i.name: sample[i.name] if q is None else q.quantize(sample[i.name]) for i, q in pairs
        }

    @contextmanager
    def _runner(
        self, module: tvm.IRModule, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
    ) -> Iterator[Run]:
        with tempfile.TemporaryDirectory(prefix="edgecc-search-") as folder:
            model = build_for_host(module, inputs, outputs, Path(folder) / "model", self.cache)
            try:
                yield model.run
            finally:
                model.close()


def quantize_within(
    module: tvm.IRModule,
    target: Target,
    data: CalibrationData,
    recipe: Recipe,
    bound: Bound,
    validation: Validation,
    outputs: tuple[TensorInfo, ...],
    progress: Progress = lambda stage, done, total: None,
    integer_io: bool = False,
    exact: bool = False,
    cache: KernelCache | None = None,
) -> tuple[Quantized, Recipe, Trade]:
    """Quantises a simplified module so that a bound holds on the validation samples.

    Args:
        module, target, data, recipe, integer_io, exact: as for ``ptq.quantize``.
        outputs: of the float model.
        cache: of kernels for this machine, for more than one search.

    Returns:
        The quantised module, the recipe that makes it, and what it cost.

    Raises:
        EdgeccError: the data do not fit the model, or the bound does not even hold with all
            operators in float32.
    """
    cache = cache or KernelCache()
    with Quantizer(
        module, target, data, recipe, progress, integer_io, exact, variants=True, cache=cache
    ) as quantizer:
        models = _Models(quantizer, data.inputs, outputs, cache)
        progress("float32 outputs", 0, 0)
        with models.floats() as floats:
            search = _Search(models, Judge(bound, validation, floats), progress)
            names = search.run(lambda found: rank(models, found, data))
            found = quantizer.quantize(models.rules(names))
            trade = search.trade(names, found)
    made = replace(recipe, rules=(*recipe.rules, *models.rules(names)))
    return found, made, trade


class _Search:
    """One search; ``measured`` remembers what sets of names came to."""

    def __init__(self, models: _Models, judge: Judge, progress: Progress) -> None:
        self.models, self.judge, self.progress = models, judge, progress
        self.measured: dict[frozenset[str], float] = {}
        self.started = time.monotonic()
        self.complete = True
        self.ranked: list[str] = []
        self.base: Quantized | None = None

    def run(self, ranking: Callable[[Quantized], list[str]]) -> list[str]:
        """The names of the operators to leave in float32."""
        self.base = self.models.quantizer.quantize()
        self.ranked = list(dict.fromkeys(r.name for r in _candidates(self.base)))
        if self._holds([]):
            return []
        self.progress("rank layers by their error", 0, 0)
        self.ranked = ranking(self.base)
        return self._give_back(self._shortest())

    def _holds(self, names: Sequence[str]) -> bool:
        key = frozenset(names)
        if key not in self.measured:
            text = f"try {len(key)} of {len(self.ranked)} layers in float32"
            if self.measured:
                best = self.judge.bound.text(list(self.measured.values())[-1])
                text += f" ({best} with the last)"
            self.progress(text, len(self.measured), 0)
            rules = self.models.rules(names)
            with self.models.quantized(self.models.quantizer.quantize(rules)) as run:
                self.measured[key] = self.judge.measure(run)
        return self.judge.holds(self.measured[key])

    def _shortest(self) -> list[str]:
        """The shortest head of the ranking that holds."""
        count, end = 1, len(self.ranked)
        while count < end and not self._holds(self.ranked[:count]):
            count = min(2 * count, end)
        if not self._holds(self.ranked[:count]):
            raise EdgeccError(
                f"--max-drop {self.judge.bound}: not held with all of the model in float32 either "
                f"({self._text(self.ranked)})",
                "the metric must give the same model the same value; loosen the bound otherwise",
            )
        low, high = count // 2, count  # low does not hold, high does
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(self.ranked[:middle]):
                high = middle
            else:
                low = middle
        return self.ranked[:high]

    def _give_back(self, names: list[str]) -> list[str]:
        """Without what is not needed; chunks first, the most harmless first."""
        size = len(names) // 2
        while size >= 1 and len(names) > 1:
            end = len(names)
            while end > 0:
                start = max(end - size, 0)
                fewer = names[:start] + names[end:]
                if fewer and frozenset(fewer) not in self.measured and self._is_spent():
                    self.complete = False
                    return names
                if fewer and self._holds(fewer):
                    names = fewer
                end = start
            size //= 2
        return names

    def _is_spent(self) -> bool:
        seconds = time.monotonic() - self.started
        return len(self.measured) >= MAX_EVALUATIONS or seconds > MAX_SECONDS

    def _text(self, names: Sequence[str]) -> str:
        return self.judge.bound.text(self.measured[frozenset(names)])

    def trade(self, names: list[str], found: Quantized) -> Trade:
        assert self.base is not None
        bound, validation = self.judge.bound, self.judge.validation
        own = bound.metric is not None
        count = validation.data.count
        ordered = [r.name for r in found.plan.graph.regions if r.name in set(names)]
        return Trade(
            bound=str(bound),
            measured_on="the metric's own data" if own else f"{count} samples, {validation.name}",
            held_out=validation.held_out and not own,
            float32=bound.text(self.judge.value_of_exact),
            int8=self._text([]),
            result=self._text(names),
            layers=tuple(dict.fromkeys(ordered)),
            candidates=len(self.ranked),
            weights={
                "float32": _weight_bytes(self.base, lambda region: False),
                "int8": _weight_bytes(self.base, self.base.plan.is_integer),
                "result": _weight_bytes(found, found.plan.is_integer),
            },
            evaluations=len(self.measured),
            complete=self.complete,
        )


def rank(models: _Models, found: Quantized, data: CalibrationData) -> list[str]:
    """Names of what a plan computes in integers, those that add most error first.

    The error of an operator is the noise over signal of what it hands over, less the largest of
    what it reads; what it quantises for itself counts as its own. What one in floats hands over is
    rounded for those that read it.
    """
    graph = found.plan.graph
    noises = _noises(models, found, data)
    before: dict[relax.Var, float] = {}
    harm: dict[str, float] = {}
    for region in graph.regions:
        inherited = max((before.get(v, 0.0) for v in region.inputs), default=0.0)
        before[region.end] = inherited
        adds = found.plan.reads_integers(region) and region not in found.plan.kept
        if adds and region.end in noises:
            before[region.end] = noises[region.end].ratio
            added = max(noises[region.end].ratio - inherited, 0.0)
            harm[region.name] = harm.get(region.name, 0.0) + added
    names = dict.fromkeys(region.name for region in _candidates(found))
    return sorted(names, key=lambda name: -harm.get(name, 0.0))


def _candidates(found: Quantized) -> list[Region]:
    """What can be left in float32 for a bound.

    Moves follow their neighbours. What computes floats for speed has no integers of its own, unless
    the model's inputs or results are integers for its sake.
    """
    plan = found.plan
    ends = {*plan.graph.params, *plan.graph.results} if plan.integer_io else set()
    return [
        r
        for r in plan.graph.regions
        if plan.reads_integers(r)
        and r.kind != "move"
        and (r not in plan.kept or ends & {*r.inputs, r.end})
    ]


def _noises(models: _Models, found: Quantized, data: CalibrationData) -> dict[relax.Var, Noise]:
    """Of what regions hand over, in the quantised against the float model."""
    params = {*found.plan.graph.params, *found.module["main"].params}
    shown = models.quantizer.model.shown
    copies = {
        var: copy
        for var, copy in found.copies.items()
        if var in shown and var not in params and copy.var not in params
    }
    noises = {var: Noise() for var in copies}
    inputs = io_tensors(models.inputs, found.of_inputs())
    tensors = [copy.var for copy in copies.values()]
    with ObservedModel(found.module, inputs, tensors, models.cache) as made:
        for sample in islice(iter(data), RANKING_SAMPLES):
            wanted = models.quantizer.model.show(sample)
            values = made.show(models.fed(found, sample))
            for var, copy in copies.items():
                noises[var].add(wanted[var], _real(values[copy.var], copy.quantum))
    return noises


def _real(values: np.ndarray, quantum: Quantum | None) -> np.ndarray:
    return values if quantum is None else quantum.dequantize(values)


def _weight_bytes(found: Quantized, is_integer: Callable[[Region], bool]) -> int:
    """Of all constant operands of convolutions and products."""
    graph = found.plan.graph
    total = 0
    for region in graph.regions:
        if region.kind in ("convolution", "matmul"):
            values, axis = weights_of(graph, region)
            scales = 4 * values.shape[axis]
            total += values.size + scales if is_integer(region) else 4 * values.size
    return total
