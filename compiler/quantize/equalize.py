"""Cross-layer equalization: channels of like range, so that one scale suits all of them.

Before:  y = conv2d(relu(conv2d(x, W1) + b1), W2)
After:   y = conv2d(relu(conv2d(x, W1 / s) + b1 / s), W2 * s)

The same function in real numbers, for any positive s, one value a channel. Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1:
with s = sqrt(r1 / r2) the weights of both layers have the range sqrt(r1 * r2) in that channel
(equation 11). Chains are equalized pair by pair until nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from compiler.passes.packed_values import constant_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.regions import Graph, Region

# The paper's loop settles in a few rounds.
MAX_ROUNDS = 20
SETTLED = 1e-3
# Dead channels have no range to equalize.
SMALLEST_RANGE = 1e-12
_HOMOGENEOUS = ("relax.nn.relu", "relax.nn.leakyrelu")


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two convolutions of which only the second reads what the first hands over."""

    first: relax.Var
    second: relax.Var
    bias: relax.Var | None  # the addition of a constant behind the first
    depthwise: bool  # the second


def equalize(module: tvm.IRModule) -> tvm.IRModule:
    """Equalizes all pairs of convolutions with nothing but a bias and a ReLU between them."""
    graph = Graph(module)
    pairs = [pair for region in graph.regions if (pair := _pair(graph, region)) is not None]
    constants: dict[relax.Var, np.ndarray] = {}
    for pair in pairs:
        for var in (pair.first, pair.second):
            constants[var] = _operand(graph, var).astype("float64")
        if pair.bias is not None:
            constants[pair.bias] = _operand(graph, pair.bias).astype("float64")
    for _ in range(MAX_ROUNDS):
        moved = max((_balance(pair, constants) for pair in pairs), default=0.0)
        if moved < SETTLED:
            break
    return _Constants(constants).rewrite(module) if pairs else module


def _operand(graph: Graph, var: relax.Var) -> np.ndarray:
    """The constant operand of a convolution or addition."""
    found = [constant_of(a) for a in graph.values[var].args]
    return next(value for value in found if value is not None)


def _pair(graph: Graph, region: Region) -> _Pair | None:
    if not _is_convolution(graph, region) or region.end in graph.results:
        return None
    readers = graph.readers.get(region.end, [])
    if len(readers) != 1 or len(region.inputs) != 1:
        return None
    other = graph.region_of[readers[0]]
    if not _is_convolution(graph, other) or readers[0] != other.anchor:
        return None
    groups = int(graph.values[other.anchor].attrs.groups)
    channels = _operand(graph, region.anchor).shape[0]
    if groups not in (1, channels):
        return None
    bias = None
    for var in region.members[1:]:
        if graph.op(var) == "relax.add" and bias is None and var == region.members[1]:
            bias = var
        elif graph.op(var) not in _HOMOGENEOUS:
            return None
    if bias is not None and _operand(graph, bias).size != channels:
        return None
    return _Pair(region.anchor, other.anchor, bias, groups > 1)


def _is_convolution(graph: Graph, region: Region) -> bool:
    return region.kind == "convolution" and "transpose" not in graph.op(region.anchor)


def _balance(pair: _Pair, constants: dict[relax.Var, np.ndarray]) -> float:
    """Equalizes one pair; returns how far its channels were from it."""
    first, second = constants[pair.first], constants[pair.second]
    channels = len(first)
    before = np.abs(first).reshape(channels, -1).max(axis=1)
    incoming = second if pair.depthwise else second.swapaxes(0, 1)
    behind = np.abs(incoming).reshape(channels, -1).max(axis=1)
    alive = (before > SMALLEST_RANGE) & (behind > SMALLEST_RANGE)
    ratio = np.where(alive, before, 1.0) / np.where(alive, behind, 1.0)
    factor = np.sqrt(ratio)
    constants[pair.first] = first / factor.reshape(-1, *[1] * (first.ndim - 1))
    if pair.bias is not None:
        bias = constants[pair.bias]
        constants[pair.bias] = bias / factor.reshape(bias.shape)
    shape = (-1, *[1] * (second.ndim - 1)) if pair.depthwise else (1, -1, *[1] * (second.ndim - 2))
    constants[pair.second] = second * factor.reshape(shape)
    return float(np.abs(np.log(factor)).max())


class _Constants(Rewriter):
    """Gives operators other constants."""

    def __init__(self, constants: dict[relax.Var, np.ndarray]) -> None:
        super().__init__()
        self.constants = constants

    def _rewrite_value(self, expr: relax.Expr) -> relax.Expr:
        if self.bound not in self.constants or not isinstance(expr, relax.Call):
            return super()._rewrite_value(expr)
        new = relax.const(self.constants[self.bound].astype("float32"))
        arguments = [self.plain(a) if constant_of(a) is None else new for a in expr.args]
        return self.emit(relax.Call(expr.op, arguments, expr.attrs, expr.ty_args))
