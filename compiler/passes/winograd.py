"""Which convolutions become Winograd's, the cheaper way by a count of cycles, and how."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from compiler.passes.packed_ops import FUSABLE, Window
from compiler.passes.packed_values import Packed
from compiler.passes.winograd_ops import TAPS, conv2d, pack_weight, tiles_of
from compiler.target import Target

# Outputs of a tile along one axis. LLVM's 32-bit ARM code for m = 2 spills.
TILES = {"arm": (4,)}
# Transformed weights take 1.8 (m = 2) or 4 times the memory: each step must pay clearly.
CLEAR_WIN, CLEAR_WIN_OF_LARGER = 0.85, 0.88
# Instructions around one tile of one vector of channels: its transform, the loops around that,
# and either the copy of the border or loads and stores of accumulators and the epilogue.
TRANSFORM_INSTRUCTIONS = {2: (120, 100), 4: (330, 300)}
# What loops, loads and ragged tiles add to the multiply-adds.
DIRECT_OVERHEAD, PRODUCT_OVERHEAD = 1.05, 1.15
# Cycles a byte of weights that comes from memory costs beside the arithmetic that hides most.
BYTE_CYCLES, BYTE_CYCLES_WITHOUT_L3 = 0.1, 0.35


def choose_tile(
    target: Target, window: Window, shape: tuple[int, ...], weight: np.ndarray | None
) -> int | None:
    """Outputs of a tile along one axis, 2 or 4; None for a direct convolution.

    Args:
        shape: [N, C, (H,) W] of the input of an ungrouped convolution.
        weight: [OC, C, (KH,) KW]; None where it is not known yet.
    """
    unit = (1, 1)
    if (window.kernel, window.strides, window.dilation) != ((TAPS, TAPS), unit, unit):
        return None
    if weight is None or weight.dtype != np.float32:
        return None
    out_channels = weight.shape[0]
    best, best_cycles = None, _direct_cycles(target, window, shape, out_channels)
    for m in TILES.get(target.arch, (2, 4)):
        cycles = _winograd_cycles(target, window, shape, out_channels, m)
        clear = CLEAR_WIN if best is None else CLEAR_WIN_OF_LARGER
        if cycles < clear * best_cycles:
            best, best_cycles = m, cycles
    return best


def emit_conv2d(
    builder: relax.BlockBuilder,
    x: Packed,
    weight: np.ndarray,
    window: Window,
    shape: tuple[int, ...],
    m: int,
) -> Packed:
    """Emit a convolution with weights [OC, IC, 3, 3] in tiles of m x m outputs.

    Args:
        shape: the logical shape of the result.
    """
    x = x.viewed(builder, collapsed=False)
    kernel = relax.const(pack_weight(weight, m, x.block))
    result = builder.emit_te(
        lambda data, kernel: conv2d(data, kernel, window, m),
        x.expr,
        kernel,
        primfunc_name_hint="winograd_conv2d",
        primfunc_attrs=FUSABLE,
    )
    return Packed(result, shape, x.block)


def _direct_cycles(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int
) -> float:
    n, channels, height, width = shape
    oh, ow = window.output_size(height, width)
    products = n * oh * ow * TAPS**2 * channels * _vectors(target, out_channels)
    weights = TAPS**2 * channels * out_channels
    arithmetic = DIRECT_OVERHEAD * products / target.vector.fma_per_cycle
    return arithmetic + _weight_cycles(target, weights)


def _winograd_cycles(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int, m: int
) -> float:
    n, channels, height, width = shape
    points = (m + TAPS - 1) ** 2
    out_vectors = _vectors(target, out_channels)
    of_input, of_output = (
        _transform_cycles(target, points, count) for count in TRANSFORM_INSTRUCTIONS[m]
    )
    products = points * channels * out_vectors / target.vector.fma_per_cycle
    tile = (
        PRODUCT_OVERHEAD * products
        + of_input * _vectors(target, channels)
        + of_output * out_vectors
    )
    tiles = n * math.prod(tiles_of(window, height, width, m))
    return tiles * tile + _weight_cycles(target, points * channels * out_channels)


def _transform_cycles(target: Target, points: int, instructions: int) -> float:
    """One transform of one vector, whose results are written to L2 and read from there."""
    fit = target.estimate
    if fit is not None:
        of_instruction, of_line = fit.cycles_per_instruction, fit.cycles_per_l1d_miss
    else:
        of_instruction = 0.9 / target.vector.fma_per_cycle
        of_line = 0.6 if target.caches.l3 else 4.0
    lines = 2 * points * target.vector.bits // 8 / target.caches.line
    return instructions * of_instruction + lines * of_line


def _vectors(target: Target, channels: int) -> int:
    return math.ceil(channels / target.vector.lanes())


def _weight_cycles(target: Target, weights: int) -> float:
    return 4 * weights * (BYTE_CYCLES if target.caches.l3 else BYTE_CYCLES_WITHOUT_L3)
