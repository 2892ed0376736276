"""Constants that a model stores as integers and dequantises by ordinary arithmetic.

Weight-only quantisation is often written as Mul(Sub(Cast(integers), zero point), scale). Step by
step these are quanta as well: that of a cast has the scale 1, a subtraction gives it a zero point,
a multiplication its scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compiler.quantize.qdq import Quantum

if TYPE_CHECKING:
    from compiler.frontend.integers import Stored
    from compiler.frontend.node import Node

_NARROW = ("int8", "uint8")


def cast(node: Node, result: np.ndarray) -> tuple[np.ndarray, Quantum] | None:
    """The integers and the quantum of a Cast of a constant matrix, or more, to float32."""
    value = node.inputs[0]
    if result.dtype != np.float32 or str(value.dtype) not in _NARROW or value.ndim < 2:
        return None
    return value, Quantum.of(1.0, 0, str(value.dtype))


def shifted(stored: Stored, other: np.ndarray) -> Quantum | None:
    """The quantum of ``stored - other``; None where that is none."""
    quantum = stored.quantum
    found = _along_one_axis(other, stored.integers.shape)
    if found is None or not quantum.is_symmetric or not (quantum.scale == 1).all():
        return None
    values, axis = found
    low, high = quantum.limits
    if not ((values == np.rint(values)) & (values >= low) & (values <= high)).all():
        return None
    return Quantum.of(np.ones_like(values), values, quantum.dtype, axis)


def scaled(stored: Stored, other: np.ndarray) -> Quantum | None:
    """The quantum of ``stored * other``; None where that is none."""
    quantum = stored.quantum
    found = _along_one_axis(other, stored.integers.shape)
    if found is None or not (quantum.scale == 1).all():
        return None
    values, axis = found
    if not ((values > 0) & np.isfinite(values)).all():
        return None
    if not quantum.per_tensor and values.size > 1 and axis != quantum.axis:
        return None
    axis = axis if quantum.per_tensor else quantum.axis
    return Quantum.of(values, quantum.zero_point, quantum.dtype, axis)


def _along_one_axis(values: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int] | None:
    """float32 values that differ along one axis of ``shape`` at most, and that axis."""
    if values.dtype != np.float32 or values.ndim > len(shape):
        return None
    own = (1,) * (len(shape) - values.ndim) + values.shape
    axes = [a for a, n in enumerate(own) if n != 1]
    if not axes:
        return values.reshape(()), 0
    if len(axes) > 1 or own[axes[0]] != shape[axes[0]]:
        return None
    return values.reshape(-1), axes[0]
