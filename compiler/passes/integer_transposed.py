"""Transposed convolutions of bytes: the phases as rows of one convolution's weights.

They are output channels of one convolution, phase by phase in whole blocks; a copy of whole blocks
of bytes interleaves its results. All phases start at the same inputs where the padding is whole
strides. Elsewhere less is padded, and the copy leaves out the outputs that come in front.
"""

from __future__ import annotations

import numpy as np

from compiler.passes.channel_sums import channel_sums, stored_weight
from compiler.passes.dot_layout import DotLayout
from compiler.passes.integer_sums import Quantized, suits
from compiler.passes.pack_transposed import Phases, Transposed, phase_weights
from compiler.passes.packed_values import Packed
from compiler.quantize.qdq import Quantum

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def transposed_rows(
    data: Quantized,
    weight: Quantized,
    transposed: Transposed,
    channels: int,
    phases: Phases,
    dot: DotLayout,
) -> Rows | None:
    """The weights of all phases with the bias, scale and limit of their sums (``channel_sums``).

    Args:
        channels: of the result.
        phases: that start at the same inputs.
        dot: how operands lie.

    Returns:
        int8 [phases * padded OC, IC, TH, TW] and three vectors for these rows; None where the
        instruction does not take the weights.
    """
    if isinstance(weight.stored, Packed) or not transposed.splits_into_phases:
        return None
    stored = stored_weight(weight.stored, weight.quantum, 1)
    if stored is None:
        return None
    padding = -channels % dot.block
    rows = np.pad(phase_weights(stored, phases), [(0, 0), (0, 0), (0, padding), *[(0, 0)] * 3])
    rows = np.ascontiguousarray(rows.reshape(-1, *rows.shape[3:]))
    # Few channels lie denser in floats.
    if padding > channels // 2 or not suits(dot, data, rows):
        return None
    scale = np.broadcast_to(weight.quantum.scale, channels)
    scale = np.tile(np.pad(scale, (0, padding), mode="edge"), phases.count)
    found = channel_sums(rows, Quantum.of(scale, 0, "int8"), data.quantum)
    return None if found is None else (rows, *found)
