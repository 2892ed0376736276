"""Integer sums of products as real numbers: bias and scale of each output channel."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.passes.packed_values import constant_of
from compiler.quantize.qdq import Quantum

MAX_INT32 = (1 << 31) - 1


def stored_weight(stored: relax.Expr, quantum: Quantum, axis: int) -> np.ndarray | None:
    """A constant of int8 with zero points 0 and scales along an axis, if any; None for others."""
    along = quantum.per_tensor or quantum.axis == axis
    if not along or not quantum.is_symmetric or quantum.dtype != "int8":
        return None
    return constant_of(stored)


def channel_sums(
    weight: np.ndarray, quantum: Quantum, data: Quantum
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Bias, scale and limit of sums of w * x: (sums + bias) * scale are the real numbers.

    Args:
        weight: int8 [OC, ...].
        quantum: the weight's.
        data: x's, whose zero point the bias takes out: sum (x - z) w = sum x w - z sum w.

    Returns:
        int64, float32 and int64 [OC]; the limit bounds the magnitude of sum + bias. None where
        int32 does not hold the sums.
    """
    zero = int(data.zero_point)
    channels = weight.astype("int64").reshape(len(weight), -1)
    bias = -zero * channels.sum(axis=1)
    reach = max(abs(bound - zero) for bound in data.limits)
    limit = np.abs(channels).sum(axis=1) * reach
    # Without the zero point taken out yet the sums are larger.
    if limit.max() + np.abs(bias).max() > MAX_INT32:
        return None
    scale = np.broadcast_to(quantum.scale * data.scale, bias.shape).astype("float32")
    return bias, scale, limit
