"""From ranges of real numbers to scales and zero points.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper",
2018, sections 2.1 and 2.2.
"""

from __future__ import annotations

import numpy as np

from compiler.quantize.qdq import Quantum

# Below it a float32 scale loses bits; such a tensor is zero for all that can be measured.
SMALLEST_SCALE = 1e-30
WEIGHT_LIMIT = 127
WORD_LIMIT = 32767
# Of the magnitudes of one channel's weights that multiply int16: the sums stay in int32, beside a
# bias of a sixteenth of its range.
MOST_BESIDE_WORDS = (1 << 16) * 15 // 16


def asymmetric(low: float, high: float, dtype: str) -> Quantum:
    """All steps of the dtype over [low, high]; 0 is always one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    info = np.iinfo(dtype)
    scale = max((high - low) / (int(info.max) - int(info.min)), SMALLEST_SCALE)
    zero = int(np.rint(info.min - low / float(np.float32(scale))))
    return Quantum.of(scale, min(max(zero, int(info.min)), int(info.max)), dtype)


def symmetric_words(low: float, high: float) -> Quantum:
    """int16 of -32767 to 32767 around 0 for what lies in [low, high]."""
    scale = max(max(-low, high) / WORD_LIMIT, SMALLEST_SCALE)
    return Quantum.of(scale, 0, "int16")


def beside_words(weights: np.ndarray, axis: int, per_channel: bool) -> Quantum:
    """As ``symmetric``, with coarser steps where sums of products with int16 could leave int32.

    Args:
        axis: of the output channels.
        per_channel: a scale for each of these.
    """
    others = tuple(a for a in range(weights.ndim) if a != axis % weights.ndim)
    magnitudes = np.abs(weights.astype("float64"))
    count = weights.size // weights.shape[axis]
    # Rounding, even upwards, adds a step to each at most.
    coarser = magnitudes.sum(axis=others) / max(1, MOST_BESIDE_WORDS - count)
    largest = np.maximum(magnitudes.max(axis=others, initial=0.0), coarser * WEIGHT_LIMIT)
    if not per_channel:
        return Quantum.of(_scale(largest.max(initial=0.0)), 0, "int8")
    return Quantum.of(_scale(largest), np.zeros(largest.shape, "int8"), "int8", axis)


def symmetric(weights: np.ndarray, axis: int | None) -> Quantum:
    """int8 of -127 to 127 around 0, for each index along an axis or for all together (None)."""
    if axis is None:
        return Quantum.of(_scale(np.abs(weights).max(initial=0.0)), 0, "int8")
    others = tuple(a for a in range(weights.ndim) if a != axis % weights.ndim)
    largest = np.abs(weights).max(axis=others, initial=0.0)
    return Quantum.of(_scale(largest), np.zeros(largest.shape, "int8"), "int8", axis)


def _scale(largest: np.ndarray) -> np.ndarray:
    return np.maximum(largest.astype("float64") / WEIGHT_LIMIT, SMALLEST_SCALE).astype("float32")


def quantize_weights(weights: np.ndarray, quantum: Quantum) -> np.ndarray:
    """int8 in [-127, 127]."""
    scale, _ = quantum.along(weights.ndim)
    steps = np.rint(weights.astype("float64") / scale)
    return np.clip(steps, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype("int8")
