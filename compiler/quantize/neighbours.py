"""Weights whose neighbours may be multiplied and added in int16.

x86 without VNNI multiplies bytes fastest by an instruction that adds two products in int16 and
saturates (``DotLayout.most_neighbours``); a layout of two parts adds two of these sums as well
before it widens them. Weights of 7 bits never saturate a sum of two; most pairs of 8 bits don't
either. So each channel gets the scale with the least squared error after the few sums that are too
large have been moved to the nearest ones that are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.passes.dot_layout import DotLayout, joined, separated
from compiler.quantize.qdq import Quantum
from compiler.quantize.scales import quantize_weights, symmetric

# Scales that are tried, in units of the one that just holds the largest weight: with so many times
# that as a sum has parts and twice, no sum is too large.
_TRIALS = 13


def quantize_for(
    weights: np.ndarray, axis: int, inputs: int, layouts: Sequence[DotLayout]
) -> tuple[np.ndarray, Quantum]:
    """int8 weights for the fastest layout that costs no more accuracy than 7 bits would.

    Args:
        axis: of the output channels.
        inputs: axis of the input channels.
        layouts: with bounds, the fastest first.
    """
    *faster, last = layouts
    seven = symmetric(weights * 2, axis)
    most_noise = _noise(weights, quantize_weights(weights, seven), seven).sum()
    for layout in faster:
        values, quantum = quantize_neighbours(weights, axis, inputs, layout)
        if _noise(weights, values, quantum).sum() <= most_noise:
            return values, quantum
    return quantize_neighbours(weights, axis, inputs, last)


def quantize_neighbours(
    weights: np.ndarray, axis: int, inputs: int, layout: DotLayout
) -> tuple[np.ndarray, Quantum]:
    """int8 weights that a layout takes and their scales, one for each output channel.

    Args:
        axis: of the output channels.
        inputs: axis of the input channels.
    """
    smallest = symmetric(weights, axis)
    axis %= weights.ndim
    best_error = np.full(weights.shape[axis], np.inf)
    best_scale = smallest.scale.copy()
    best = np.zeros(weights.shape, "int8")
    for factor in np.geomspace(1.0, 2.0 * layout.parts, _TRIALS):
        scale = (smallest.scale * np.float32(factor)).astype("float32")
        quantum = Quantum.of(scale, smallest.zero_point, "int8", axis)
        values = bounded(quantize_weights(weights, quantum), inputs, layout)
        error = _noise(weights, values, quantum)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        shape = tuple(-1 if a == axis else 1 for a in range(weights.ndim))
        best = np.where(better.reshape(shape), values, best)
    return best, Quantum.of(best_scale, smallest.zero_point, "int8", axis)


def bounded(values: np.ndarray, inputs: int, layout: DotLayout) -> np.ndarray:
    """The nearest int8 values that a layout takes.

    Args:
        inputs: axis of the input channels.
    """
    most = layout.most_neighbours
    if most is None:
        return values
    sums = joined(values, inputs, layout.parts).astype("int16")
    for sign in (1, -1):
        same = np.maximum(sign * sums, 0)
        beyond = same.sum(axis=-1) > most
        sums[beyond] += sign * (_nearest(same[beyond], most) - same[beyond])
    return separated(sums, inputs, values.shape).astype("int8")


def _nearest(terms: np.ndarray, most: int) -> np.ndarray:
    """The nearest integers from 0 on with a sum of ``most``, for rows [n, terms] of larger sums.

    Duchi et al., "Efficient Projections onto the l1-Ball", 2008, algorithm 1: the same is
    subtracted from all that stay positive.
    """
    descending = -np.sort(-terms.astype("int32"), axis=-1)
    cuts = (descending.cumsum(axis=-1) - most) / np.arange(1, terms.shape[-1] + 1)
    positive = (descending > cuts).sum(axis=-1, keepdims=True)
    cut = np.take_along_axis(cuts, positive - 1, axis=-1)
    stays = terms > cut
    nearest = np.where(stays, terms - np.ceil(cut), 0).astype("int16")
    left = most - nearest.sum(axis=-1, keepdims=True)
    return nearest + (stays & (stays.cumsum(axis=-1) <= left)).astype("int16")


def _noise(weights: np.ndarray, values: np.ndarray, quantum: Quantum) -> np.ndarray:
    """Squared error of each output channel."""
    axis = int(quantum.axis) % weights.ndim
    others = tuple(a for a in range(weights.ndim) if a != axis)
    return np.square(quantum.dequantize(values) - weights, dtype="float64").sum(axis=others)
