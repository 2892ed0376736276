"""Weights whose neighbours may be multiplied and added in int16.

x86 without VNNI multiplies bytes fastest by an instruction that adds two products in int16 and
saturates (``DotLayout.most_neighbours``). Weights of 7 bits never do; most pairs of 8 bits don't
either. So each channel gets the scale with the least squared error after the few pairs whose sum
is too large have been moved to the nearest ones whose is not.
"""

from __future__ import annotations

import numpy as np

from compiler.quantize.qdq import Quantum
from compiler.quantize.scales import quantize_weights, symmetric

# Scales that are tried, in units of the one that just holds the largest weight. With twice that
# no sum is too large.
_FACTORS = np.geomspace(1.0, 2.0, 13)


def quantize_neighbours(
    weights: np.ndarray, axis: int, inputs: int, most: int
) -> tuple[np.ndarray, Quantum]:
    """int8 weights and their scales, one for each output channel.

    Args:
        axis: of the output channels.
        inputs: axis of the input channels, of which 0 and 1, 2 and 3, ... are neighbours.
        most: bound of the sum of two neighbours of the same sign.
    """
    smallest = symmetric(weights, axis)
    axis %= weights.ndim
    others = tuple(a for a in range(weights.ndim) if a != axis)
    best_error = np.full(weights.shape[axis], np.inf)
    best_scale = smallest.scale.copy()
    best = np.zeros(weights.shape, "int8")
    for factor in _FACTORS:
        scale = (smallest.scale * np.float32(factor)).astype("float32")
        quantum = Quantum.of(scale, smallest.zero_point, "int8", axis)
        values = _with_sums(quantize_weights(weights, quantum), inputs, most)
        error = np.square(quantum.dequantize(values) - weights, dtype="float64").sum(axis=others)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        shape = tuple(-1 if a == axis else 1 for a in range(weights.ndim))
        best = np.where(better.reshape(shape), values, best)
    return best, Quantum.of(best_scale, smallest.zero_point, "int8", axis)


def _with_sums(values: np.ndarray, inputs: int, most: int) -> np.ndarray:
    """The nearest values in which no two neighbours of one sign add up to more than ``most``."""
    moved = np.moveaxis(values, inputs, -1).astype("int16")
    even = moved.shape[-1] // 2 * 2
    first, second = moved[..., 0:even:2], moved[..., 1:even:2]
    same = np.sign(first) == np.sign(second)
    excess = np.where(same, np.maximum(np.abs(first) + np.abs(second) - most, 0), 0)
    larger = np.abs(first) >= np.abs(second)
    up, down = (excess + 1) // 2, excess // 2
    moved[..., 0:even:2] -= np.sign(first) * np.where(larger, up, down)
    moved[..., 1:even:2] -= np.sign(second) * np.where(larger, down, up)
    return np.moveaxis(moved, -1, inputs).astype("int8")
