"""Finds the operators that must stay in float32 so that a bound holds.

Operators are ranked by the error that each adds; the shortest head of that list that is enough is
found by doubling and bisection, and then what can be given back to int8 is, the most harmless
first. Where the target multiplies 16 bits faster than floats, what can read these does so instead.
Each set is judged by running its quantised model on this machine: all sets share most of their
kernels, which are compiled once.
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

from compiler.codegen import KernelCache
from compiler.errors import EdgeccError
from compiler.passes.dot_layout import activation_dtype, wide_pays
from compiler.program import TensorInfo
from compiler.quantize.bound import Bound, Judge, Run
from compiler.quantize.data import CalibrationData
from compiler.quantize.labelled import Validation
from compiler.quantize.observe import build_for_host
from compiler.quantize.ptq import Progress, Quantized, Quantizer
from compiler.quantize.ranking import Disturbed, candidates, flips, noise, rank
from compiler.quantize.recipe import Recipe, Rule
from compiler.quantize.regions import Region, weights_of
from compiler.quantize.request import io_tensors
from compiler.target import Target

# The ranking needs few samples.
RANKING_SAMPLES = 16
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
        words: of those that read 16 bits instead of 8.
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
    words: tuple[str, ...]
    candidates: int
    weights: dict[str, int]
    evaluations: int
    complete: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "layers": list(self.layers), "words": list(self.words)}


@dataclass(frozen=True)
class _Models:
    """Makes quantised models that run here."""

    quantizer: Quantizer
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    cache: KernelCache

    def rules(self, names: Sequence[str], words: Sequence[str] = ()) -> tuple[Rule, ...]:
        """Of operators in float32, and of those that read 16 bits."""
        floats = (Rule(name, precision="float32") for name in names)
        return (*floats, *(Rule(name, activations="int16") for name in words))

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
            names, words = search.run(
                lambda found: _ranked(models, found, data, bound, progress), wide_pays(target)
            )
            rules = models.rules(names, words)
            found = quantizer.quantize(rules)
            trade = search.trade(names, words, found)
    return found, replace(recipe, rules=(*recipe.rules, *rules)), trade


def _ranked(
    models: _Models, found: Quantized, data: CalibrationData, bound: Bound, progress: Progress
) -> list[str]:
    samples = list(islice(iter(data), RANKING_SAMPLES))
    disturbed = Disturbed(found, activation_dtype(models.quantizer.target))
    harm = noise if bound.kind == "sqnr" else flips
    return rank(disturbed, models.inputs, models.outputs, samples, harm, models.cache, progress)


class _Search:
    """One search; ``measured`` remembers what sets of names came to, in float32 and in 16 bits."""

    def __init__(self, models: _Models, judge: Judge, progress: Progress) -> None:
        self.models, self.judge, self.progress = models, judge, progress
        self.measured: dict[tuple[frozenset[str], frozenset[str]], float] = {}
        self.started = time.monotonic()
        self.complete = True
        self.ranked: list[str] = []
        self.base: Quantized | None = None
        self.in_words = False

    def run(
        self, ranking: Callable[[Quantized], list[str]], wide: bool
    ) -> tuple[list[str], list[str]]:
        """The names of the operators to leave in float32, and of those to read 16 bits.

        Args:
            wide: whether 16 bits are worth a trial.
        """
        self.base = self.models.quantizer.quantize()
        self.ranked = list(dict.fromkeys(r.name for r in candidates(self.base)))
        if self._holds([]):
            return [], []
        self.ranked = ranking(self.base)
        self.in_words = wide and self._both_hold([], self.ranked)
        names = self._give_back(self._shortest())
        if self.in_words:
            return [], names
        return self._narrow(names) if wide else (names, [])

    def _holds(self, names: Sequence[str]) -> bool:
        """With so many not in 8 bits."""
        return self._both_hold([], names) if self.in_words else self._both_hold(names, [])

    def _both_hold(self, names: Sequence[str], words: Sequence[str]) -> bool:
        """With operators in float32, and others that read 16 bits."""
        key = frozenset(names), frozenset(words)
        if key not in self.measured:
            text = f"try {len(names)} of {len(self.ranked)} layers in float32"
            if words:
                text += f" and {len(words)} with int16"
            if self.measured:
                best = self.judge.bound.text(list(self.measured.values())[-1])
                text += f" ({best} with the last)"
            self.progress(text, len(self.measured), 0)
            rules = self.models.rules(names, words)
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

    def _narrow(self, names: list[str]) -> tuple[list[str], list[str]]:
        """What must stay in float32, and what may read 16 bits instead."""

        def holds(fewer: Sequence[str]) -> bool:
            return self._both_hold(fewer, [name for name in names if name not in fewer])

        kept = self._give_back(names, holds)
        return kept, [name for name in names if name not in kept]

    def _give_back(
        self, names: list[str], holds: Callable[[Sequence[str]], bool] | None = None
    ) -> list[str]:
        """Without what is not needed; chunks first, the most harmless first."""
        holds = holds or self._holds
        size = len(names) // 2
        while size >= 1 and len(names) > 1:
            end = len(names)
            while end > 0:
                start = max(end - size, 0)
                fewer = names[:start] + names[end:]
                if fewer and self._is_spent() and not self._is_known(fewer):
                    self.complete = False
                    return names
                if fewer and holds(fewer):
                    names = fewer
                end = start
            size //= 2
        return names

    def _is_known(self, names: Sequence[str]) -> bool:
        found, none = frozenset(names), frozenset[str]()
        return ((none, found) if self.in_words else (found, none)) in self.measured

    def _is_spent(self) -> bool:
        seconds = time.monotonic() - self.started
        return len(self.measured) >= MAX_EVALUATIONS or seconds > MAX_SECONDS

    def _text(self, names: Sequence[str], words: Sequence[str] = ()) -> str:
        return self.judge.bound.text(self.measured[frozenset(names), frozenset(words)])

    def trade(self, names: list[str], words: list[str], found: Quantized) -> Trade:
        assert self.base is not None
        bound, validation = self.judge.bound, self.judge.validation
        own = bound.metric is not None
        count = validation.data.count
        ordered = [*dict.fromkeys(r.name for r in found.plan.graph.regions)]
        return Trade(
            bound=str(bound),
            measured_on="the metric's own data" if own else f"{count} samples, {validation.name}",
            held_out=validation.held_out and not own,
            float32=bound.text(self.judge.value_of_exact),
            int8=self._text([]),
            result=self._text(names, words),
            layers=tuple(name for name in ordered if name in names),
            words=tuple(name for name in ordered if name in words),
            candidates=len(self.ranked),
            weights={
                "float32": _weight_bytes(self.base, lambda region: False),
                "int8": _weight_bytes(self.base, self.base.plan.is_integer),
                "result": _weight_bytes(found, found.plan.is_integer),
            },
            evaluations=len(self.measured),
            complete=self.complete,
        )


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
