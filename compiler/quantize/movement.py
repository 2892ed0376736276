"""Where a quantum's axis goes when a tensor's elements are moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from compiler.quantize.qdq import Quantum


def permuted(quantum: Quantum, order: Sequence[int]) -> Quantum:
    """The quantum of ``transpose(x, order)``, ``quantum`` being that of x."""
    return replace(quantum, axis=list(order).index(quantum.axis)) if quantum.scale.ndim else quantum


def reshaped(quantum: Quantum, old: Sequence[int], new: Sequence[int]) -> Quantum | None:
    """The quantum of x of shape ``old`` seen as ``new``; None where its axis is cut or merged."""
    if quantum.per_tensor:
        return quantum
    before, extent = math.prod(old[: quantum.axis]), old[quantum.axis]
    for axis, n in enumerate(new):
        if n == extent and math.prod(new[:axis]) == before:
            return replace(quantum, axis=axis)
    return None
