"""Convolutions of bytes that are not emitted yet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax, te

from compiler.passes import integer_depthwise, integer_ops, winograd_ops
from compiler.passes.channel_sums import MAX_INT32, channel_sums, stored_weight
from compiler.passes.dot_layout import DotLayout
from compiler.passes.integer_groups import Arrangement
from compiler.passes.packed_ops import Window
from compiler.passes.packed_values import Packed
from compiler.quantize.qdq import Quantum


@dataclass(frozen=True, eq=False)
class Quantized:
    """A tensor that is stored as integers.

    Args:
        joins: nobody but one operator reads it, whose result is stored as integers again: one
            kernel may do it all.
    """

    stored: Packed | relax.Expr
    quantum: Quantum
    joins: bool = False


@dataclass(frozen=True, eq=False)
class Sums:
    """A convolution of bytes that is not emitted yet: (sums + bias) * scale.

    Args:
        x: the input, in whole groups of channels.
        dot: how operands lie.
        zero: x's zero point.
        weight: int8 [OC, IC, KH, KW].
        bias: int64 [OC].
        scale: float32 [OC].
        limit: bound of the magnitude of sum + bias, for each channel.
        shape: logical shape of the result.
        depthwise: each channel for itself; weight is [OC, 1, KH, KW].
        winograd: everything is ``winograd_ops.INTEGER_SCALE`` times as large, but ``scale``.
        grouped: a grouped convolution, or one whose input's channels have an order.
        phases: (sh, sw) of a transposed convolution, whose phases' channels lie one behind the
            other in OC, in whole blocks; ``shape`` is that of the interleaved result,
        begin: which starts at this row and column of the interleaved phases.
    """

    x: Packed
    dot: DotLayout
    zero: int
    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    limit: np.ndarray
    window: Window
    shape: tuple[int, ...]
    depthwise: bool = False
    winograd: bool = False
    grouped: Arrangement | None = None
    phases: tuple[int, int] = (1, 1)
    begin: tuple[int, int] = (0, 0)

    @property
    def summed_shape(self) -> tuple[int, ...]:
        """Of the result before phases are interleaved."""
        first = 4 - len(self.shape)
        parts = zip(self.shape[2:], self.begin[first:], self.phases[first:], strict=True)
        spatial = [-(-(extent + begin) // phases) for extent, begin, phases in parts]
        return (self.shape[0], len(self.bias), *spatial)

    def along_rows(self, values: np.ndarray) -> np.ndarray:
        """[1] or [channels of the result] for each row of the weights."""
        count = math.prod(self.phases)
        rows = np.zeros((count, len(self.bias) // count), values.dtype)
        rows[:, : self.shape[1]] = values
        return rows.reshape(-1)

    @property
    def name(self) -> str:
        """Of the function."""
        if self.depthwise:
            return "depthwise_conv2d"
        return "winograd_conv2d" if self.winograd else "conv2d"

    def compute(self, x: te.Tensor, weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
        """int32 sums + bias."""
        if self.depthwise:
            pairs = self.dot.pairs_taps
            form = (
                integer_depthwise.depthwise_conv2d
                if pairs
                else integer_depthwise.depthwise_conv2d_by_tap
            )
            return form(x, weight, bias, self.window, self.zero)
        if self.winograd:
            sums = winograd_ops.conv2d(x, weight, self.window, 2, self.zero)
            return integer_ops.biased(sums, bias)
        groups = self.grouped.groups if self.grouped else None
        return integer_ops.conv2d(x, weight, bias, self.window, self.zero, self.dot, groups)


def with_bias(sums: Sums, value: np.ndarray) -> Sums | None:
    """The sums with a constant added that has one value for each channel; None for others."""
    channels = sums.shape[1]
    rank = len(sums.shape)
    shape = (1,) * (rank - value.ndim) + value.shape
    if value.size not in (1, channels) or len(shape) != rank or shape[1] != value.size:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(sums.along_rows(value.reshape(-1).astype("float64")) / sums.scale)
    if not (np.abs(steps) <= MAX_INT32).all():  # nor NaN
        return None
    bias = sums.bias + steps.astype("int64")
    limit = sums.limit + np.abs(steps).astype("int64")
    if (limit + np.abs(sums.bias)).max() > MAX_INT32:
        return None
    return replace(sums, bias=bias, limit=limit)


def suits(dot: DotLayout, data: Quantized, weight: np.ndarray) -> bool:
    """Whether a layout takes the operands, and wastes nothing on a plain input of few channels."""
    fits = isinstance(data.stored, Packed) or dot.parts == 1 or weight.shape[1] > dot.part
    return fits and dot.activation == data.quantum.dtype and dot.takes(weight)


def depthwise_sums(
    data: Quantized,
    weight: object,
    dots: Iterable[DotLayout],
    window: Window,
    shape: tuple[int, ...],
) -> Sums | None:
    """Of a depthwise convolution; None where it is not computed on integers.

    Args:
        weight: as the graph has it.
        dots: the target's.
        shape: of the result.
    """
    fitting = (d for d in dots if d.activation == data.quantum.dtype)
    dot = next((d for d in fitting if d.pairs_taps or d.group == 1), None)
    if dot is None or not isinstance(weight, Quantized):
        return None
    if isinstance(weight.stored, Packed) or not isinstance(data.stored, Packed):
        return None
    stored = stored_weight(weight.stored, weight.quantum, 0)
    if stored is None:
        return None
    few = math.prod(window.kernel) <= integer_depthwise.MAX_TAPS
    if dot.pairs_taps and (stored.min() < -127 or not few):
        return None
    stored = stored.reshape(len(stored), 1, *window.kernel)
    found = channel_sums(stored, weight.quantum, data.quantum)
    if found is None:
        return None
    zero = int(data.quantum.zero_point)
    return Sums(data.stored, dot, zero, stored, *found, window, shape, depthwise=True)
