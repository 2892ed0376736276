"""Which operators of a quantised model add most error to what the model hands over.

One model computes all of them in floats and lets each be disturbed as quantisation would, by a
switch that is an input:

    before  y = conv2d(x, w)
    after   z = x + switch * (dequantize(quantize(x)) - x)
            y = conv2d(z, w) + switch * (conv2d(z, w' - w) + bias')

so that one compilation serves all of them, and each is judged by the outputs alone: noise that a
tensor bears well may be what a later operator magnifies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from compiler.codegen import KernelCache
from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter
from compiler.program import TensorInfo
from compiler.quantize.dynamic import emit_rows
from compiler.quantize.insert import Weights
from compiler.quantize.noise import Noise
from compiler.quantize.observe import build_for_host
from compiler.quantize.ptq import Progress, Quantized
from compiler.quantize.qdq import Quantum
from compiler.quantize.regions import Region
from compiler.quantize.scores import class_axis

SWITCHES = "edgecc_switches"
_TINY = 1e-12
Outputs = Mapping[str, np.ndarray]
Harm = Callable[[Iterable[Outputs], Iterable[Outputs]], float]
"""From exact and disturbed outputs of the same samples to how bad that is."""


def candidates(found: Quantized) -> list[Region]:
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


@dataclass(frozen=True)
class Disturbed:
    """Args:
    found: what the operators are quantised to.
    dtype: of rows that are quantised at run time.
    """

    found: Quantized
    dtype: str

    @property
    def names(self) -> list[str]:
        """Of the operators, in the order of their switches."""
        return list(dict.fromkeys(region.name for region in candidates(self.found)))

    def module(self) -> tvm.IRModule:
        """The float model, whose last input are switches."""
        return _Switched(self.found, self.names, self.dtype).rewrite(self.found.plan.graph.module)


def rank(
    disturbed: Disturbed,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    samples: Sequence[Mapping[str, np.ndarray]],
    harm: Harm,
    cache: KernelCache,
    progress: Progress = lambda stage, done, total: None,
) -> list[str]:
    """Names of the operators that a plan computes in integers, the most harmful first.

    Args:
        inputs, outputs: of the float model.
    """
    progress("rank layers by their error", 0, 0)
    names, found = disturbed.names, {}
    switches = TensorInfo(SWITCHES, "float32", (len(names),))
    with tempfile.TemporaryDirectory(prefix="edgecc-rank-") as folder:
        path = Path(folder) / "model"
        model = build_for_host(disturbed.module(), (*inputs, switches), outputs, path, cache)
        try:

            def run(on: Iterable[int]) -> list[dict[str, np.ndarray]]:
                values = np.zeros(switches.shape, "float32")
                values[list(on)] = 1.0
                return [model.run({**sample, SWITCHES: values}) for sample in samples]

            exact = run(())
            for index, name in enumerate(names):
                found[name] = harm(exact, run((index,)))
                progress("rank layers by their error", index + 1, len(names))
        finally:
            model.close()
    return sorted(names, key=lambda name: -found[name])


def noise(exact: Iterable[Outputs], disturbed: Iterable[Outputs]) -> float:
    """Noise over signal, of all outputs."""
    noises: dict[str, Noise] = {}
    for wanted, made in zip(exact, disturbed, strict=True):
        for name, value in made.items():
            noises.setdefault(name, Noise()).add(wanted[name], value)
    return sum(found.ratio for found in noises.values())


def flips(exact: Iterable[Outputs], disturbed: Iterable[Outputs]) -> float:
    """How near labels come to being others: the change of the distance between the two best scores
    over that distance, at most 1, on average. As ``noise`` where there are no scores.

    Noise says little here: most of its power is in few samples, and labels that change are those
    that were a near thing.
    """
    exact, disturbed, shares = list(exact), list(disturbed), []
    for wanted, made in zip(exact, disturbed, strict=True):
        scores, changed = (np.asarray(next(iter(o.values()))) for o in (wanted, made))
        axis = class_axis(scores.ndim) if scores.ndim else 0
        if scores.dtype.kind != "f" or not scores.ndim or scores.shape[axis] < 2:
            return noise(exact, disturbed)
        best = np.argpartition(scores, -2, axis=axis).take([-2, -1], axis=axis)
        before, after = (
            np.diff(np.take_along_axis(values.astype("float64"), best, axis), axis=axis)
            for values in (scores, changed)
        )
        shares.append(np.minimum(np.abs(after - before) / np.maximum(before, _TINY), 1.0).mean())
    return float(np.mean(shares))


class _Switched(Rewriter):
    """Args:
    names: of the regions, in the order of their switches.
    """

    def __init__(self, found: Quantized, names: Sequence[str], dtype: str) -> None:
        super().__init__()
        self.found, self.plan, self.dtype = found, found.plan, dtype
        self.indices = {name: index for index, name in enumerate(names)}
        self.regions = set(candidates(found))
        self.flags = relax.Var(SWITCHES, relax.TensorType((len(names),), "float32"))
        self.switches: list[relax.Var] = []
        self.disturbed: dict[tuple[relax.Var, Region], relax.Expr] = {}

    def params(self, main: relax.Function) -> list[relax.Var]:
        return [*main.params, self.flags]

    def begin(self, main: relax.Function) -> None:
        for i in range(len(self.indices)):
            self.switches.append(self.emit(relax.op.strided_slice(self.flags, [0], [i], [i + 1])))

    def _rewrite_value(self, expr: relax.Expr) -> relax.Expr:
        bound = self.bound
        region = None if bound is None else self.plan.graph.region_of.get(bound)
        if not isinstance(expr, relax.Call) or region not in self.regions:
            return super()._rewrite_value(expr)
        assert region is not None
        args = [self._argument(a, region) for a in expr.args]
        value = self.emit(relax.Call(expr.op, args, expr.attrs, expr.ty_args))
        weights = self.found.weights.get(bound)
        if weights is None or not self.plan.is_integer(region):
            return value
        args[1] = relax.const(weights.quantum.dequantize(weights.values) - constant_of(args[1]))
        error = self.emit(relax.Call(expr.op, args, expr.attrs, expr.ty_args))
        if weights.bias is not None:
            error = self.emit(relax.op.add(error, relax.const(_along(expr, weights))))
        return self._plus(value, error, region)

    def _plus(self, value: relax.Expr, error: relax.Expr, region: Region) -> relax.Var:
        """With the error where the region's switch is on."""
        switched = relax.op.multiply(error, self.switches[self.indices[region.name]])
        return self.emit(relax.op.add(value, self.emit(switched)))

    def _argument(self, expr: relax.Expr, region: Region) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._argument(f, region) for f in expr.fields])
        source = self.plan.graph.origin(expr) if isinstance(expr, relax.Var) else None
        inner = source in region.members
        if source is None or inner or str(getattr(source.ty, "dtype", "")) != "float32":
            return self.plain(expr)
        if (source, region) not in self.disturbed:
            x = self.plain(expr)
            rounded = self._rounded(x, source, region)
            if rounded is not None:
                x = self._plus(x, self.emit(relax.op.subtract(rounded, x)), region)
            self.disturbed[source, region] = x
        return self.disturbed[source, region]

    def _rounded(self, x: relax.Expr, source: relax.Var, region: Region) -> relax.Expr | None:
        """What the region reads instead of x; None where that is x."""
        if region in self.plan.dynamic:
            is_operand = source in self.plan.graph.operands[region.anchor]
            return self._rounded_rows(x) if is_operand else None
        stored = self.plan.stored.get(source)
        multiplied = (
            self.plan.is_integer(region) and source in self.plan.graph.operands[region.anchor]
        )
        if stored is None or (stored.copy and not multiplied):
            return None
        return self._rounded_tensor(x, self.found.activations[source])

    def _rounded_tensor(self, x: relax.Expr, quantum: Quantum) -> relax.Expr:
        zero = int(quantum.zero_point)
        low, high = (float(bound - zero) for bound in quantum.limits)
        steps = self.emit(relax.op.divide(x, relax.const(float(quantum.scale), "float32")))
        steps = self.emit(relax.op.clip(self.emit(relax.op.round(steps)), low, high))
        return self.emit(relax.op.multiply(steps, relax.const(float(quantum.scale), "float32")))

    def _rounded_rows(self, x: relax.Expr) -> relax.Expr:
        rows, shape = emit_rows(self.builder, x, self.dtype), shape_of(x)
        end = len(shape) - 1
        integers = relax.op.strided_slice(rows.integers, [end], [0], [shape[-1]])
        real = self.emit(relax.op.astype(self.emit(integers), "float32"))
        real = self.emit(relax.op.multiply(real, rows.scale))
        return self.emit(relax.op.add(real, rows.shift))


def _along(call: relax.Call, weights: Weights) -> np.ndarray:
    """The correction of a bias, shaped to broadcast along the output channels."""
    assert weights.bias is not None
    rank = len(shape_of(call))
    axis = rank - 1 if call.op.name == "relax.matmul" else 1
    return weights.bias.reshape([-1 if a == axis else 1 for a in range(rank)])
