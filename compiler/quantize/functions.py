"""Functions behind convolutions and products that are looked up by the bytes before them.

Before:  [conv2d, add(bias), sigmoid, multiply]          one region: the function is of the sums
After:   [conv2d, add(bias)], [sigmoid, multiply]        a stored tensor between them

so that ``passes/byte_tables.py`` makes a table of the second. In floats ``x * sigmoid(x)`` often
takes longer than the products before it. The price is a second rounding to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax

from compiler.passes.byte_tables import FEWEST, OPERATORS
from compiler.passes.packed_values import constant_of, shape_of
from compiler.quantize.calibrators import LEVELS, Mse, Range
from compiler.quantize.qdq import Quantum
from compiler.quantize.reference_ops import EVALUATORS
from compiler.quantize.regions import Function, Graph, Region

# What takes many instructions in floats.
_NAMES = ("sigmoid", "tanh", "erf", "exp", "log", "power", "nn.silu", "nn.gelu", "nn.gelu_tanh")
DEAR = frozenset(f"relax.{name}" for name in _NAMES)
_KINDS = ("convolution", "matmul", "product", "pointwise")
Compute = Callable[[np.ndarray], np.ndarray]


class OfFunction(Mse):
    """The range of least mean squared error of what a function makes of a tensor.

    What ``x * sigmoid(x)`` makes of numbers far below zero needs no steps of its own.

    Args:
        function: of float64 vectors. Where it is infinite or no number, the tensor's own error
            counts.
    """

    def __init__(self, function: Compute) -> None:
        super().__init__()
        self.function = function
        self._exact = self._slopes = np.zeros(0)

    def range(self) -> Range:
        values, half = self.histogram.centres(), self.histogram.width / 2
        if not len(values):
            return self.seen
        with np.errstate(all="ignore"):
            self._exact = self.function(values)
            rise = self.function(values + half) - self.function(values - half)
            self._slopes = rise / self.histogram.width
            ends = super().range()
            if np.isfinite(self._error(ends)):
                return ends
        plain = Mse()
        plain.histogram = self.histogram
        return plain.range()

    def _error(self, ends: Range) -> float:
        histogram = self.histogram
        scale = (ends[1] - ends[0]) / (LEVELS - 1) or 1.0
        zero = np.rint(-ends[0] / scale)
        levels = np.clip(np.rint(histogram.centres() / scale) + zero, 0, LEVELS - 1).astype(int)
        table = self.function((np.arange(LEVELS) - zero) * scale)
        error = (self._exact - table[levels]) ** 2
        # rounding of values that the bins are too coarse to show
        hidden = (self._slopes * min(scale, histogram.width)) ** 2 / 12
        total = float(histogram.counts @ np.maximum(error, hidden))
        return total if np.isfinite(total) else np.inf


def split_functions(graph: Graph, is_chosen: Callable[[Region], bool]) -> None:
    """Makes regions of their own of the functions at the ends of regions, in place.

    Args:
        is_chosen: whether a region's function shall be looked up, if it has one.
    """
    regions: list[Region] = []
    for region in graph.regions:
        regions.append(region)
        count = _members_before(graph, region)
        if count is None or not is_chosen(region):
            continue
        function = graph.cut(region, count)
        regions.append(function)
        compute = _evaluator(graph, region.end, function.members)
        graph.functions[function.end] = Function(region.end, compute)
    graph.regions = sorted(regions, key=lambda region: graph.order[region.end])


def rounded(
    graph: Graph,
    var: relax.Var,
    activations: Mapping[relax.Var, Quantum],
    values: Mapping[relax.Var, np.ndarray],
) -> np.ndarray:
    """float32: a stored tensor as its readers get it.

    Args:
        values: of it, or of what it is a function of where that is stored.
    """
    function, x = graph.functions.get(var), values[var]
    if function is not None and function.source in activations:
        before = activations[function.source]
        table = function.compute(before.dequantize(before.all_values()).astype("float64"))
        x = table[before.quantize(values[function.source]).astype("int64") - before.limits[0]]
    quantum = activations[var]
    return quantum.dequantize(quantum.quantize(x))


def _members_before(graph: Graph, region: Region) -> int | None:
    """Of the longest dear function of one tensor that a region ends in; None where it has none."""
    whole = region.kind == "pointwise" and len(region.inputs) == 1
    if whole or region.kind not in _KINDS or math.prod(shape_of(region.end)) < FEWEST:
        return None
    for count in range(1, len(region.members)):
        rest = region.members[count:]
        if _is_function(graph, region.members[count - 1], rest):
            return count if any(graph.op(var) in DEAR for var in rest) else None
    return None


def _is_function(graph: Graph, source: relax.Var, members: Sequence[relax.Var]) -> bool:
    """Whether members are computed from a tensor and numbers, and nobody else needs it."""
    inside = {source, *members}
    if str(source.ty.dtype) != "float32":
        return False
    for var in members:
        constants = [constant_of(argument) for argument in graph.values[var].args]
        if graph.op(var) not in OPERATORS or shape_of(var) != shape_of(source):
            return False
        if any(c is not None and c.size != 1 for c in constants):
            return False
        if not inside.issuperset(graph.operands[var]):
            return False
    before = (source, *members[:-1])
    return all(inside.issuperset(graph.readers.get(var, ())) for var in before)


def _evaluator(graph: Graph, source: relax.Var, members: Sequence[relax.Var]) -> Compute:
    def function(x: np.ndarray) -> np.ndarray:
        values = {source: x}
        for var in members:
            call = graph.values[var]
            operands = [_operand(graph, argument, values) for argument in call.args]
            with np.errstate(all="ignore"):
                value = EVALUATORS[graph.op(var)](call, *operands)
            assert value is not None, f"{graph.op(var)} has no value"
            values[var] = value
        return values[members[-1]]

    return function


def _operand(graph: Graph, argument: relax.Expr, values: dict[relax.Var, np.ndarray]) -> object:
    constant = constant_of(argument)
    if constant is not None:
        return constant.reshape(-1)
    return values[graph.origin(argument)] if isinstance(argument, relax.Var) else argument
