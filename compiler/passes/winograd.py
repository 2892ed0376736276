"""Which convolutions become Winograd's, the cheaper way by a count of cycles, and how."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from compiler.passes.channel_sums import MAX_INT32
from compiler.passes.dot_layout import DotLayout
from compiler.passes.packed_ops import FUSABLE, Window
from compiler.passes.packed_values import Packed
from compiler.passes.winograd_ops import (
    INTEGER_SCALE,
    TAPS,
    conv2d,
    pack_weight,
    tiles_of,
    transform_weight,
)
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
# Instructions of RVV for a multiply-add of bytes, directly and of transformed ones, and for one
# tile's transform of one vector of channels.
INTEGER_DIRECT, INTEGER_PRODUCT, INTEGER_TRANSFORM = 1.72, 1.3, 260
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
    if weight is None or weight.dtype not in (np.float32, np.float16):
        return None
    if not computes(window):
        return None
    return _cheapest(target, window, shape, weight.shape[0], 8 * weight.itemsize)[0]


def float_costs(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int, exact: bool
) -> tuple[float, int]:
    """Cycles and bytes of weights of an ungrouped convolution of floats, as it will be computed.

    Args:
        exact: without Winograd's algorithm.
    """
    pairs = 4 * shape[1] * out_channels
    m, cycles = None, _direct_cycles(target, window, shape, out_channels, 32)
    if not exact:
        m, cycles = _cheapest(target, window, shape, out_channels, 32)
    return cycles, pairs * (math.prod(window.kernel) if m is None else (m + TAPS - 1) ** 2)


def _cheapest(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int, bits: int
) -> tuple[int | None, float]:
    """Outputs of a tile, None for a direct convolution, and estimated cycles."""
    best, best_cycles = None, _direct_cycles(target, window, shape, out_channels, bits)
    if not computes(window):
        return best, best_cycles
    for m in TILES.get(target.arch, (2, 4)):
        cycles = _winograd_cycles(target, window, shape, out_channels, m, bits)
        clear = CLEAR_WIN if best is None else CLEAR_WIN_OF_LARGER
        if cycles < clear * best_cycles:
            best, best_cycles = m, cycles
    return best, best_cycles


def computes(window: Window) -> bool:
    """Whether the algorithm is for such a convolution."""
    unit = (1, 1)
    return (window.kernel, window.strides, window.dilation) == ((TAPS, TAPS), unit, unit)


def pays_in_integers(
    target: Target,
    dot: DotLayout,
    window: Window,
    shape: tuple[int, ...],
    weight: np.ndarray,
    bias: np.ndarray,
) -> bool:
    """Whether F(2x2, 3x3) of bytes is exact and takes fewer instructions than a direct convolution.

    Args:
        dot: how the bytes lie, in whole blocks of channels.
        shape: [N, C, H, W] of the input.
        weight: int8 [OC, C, 3, 3].
        bias: int64 [OC].
    """
    if not computes(window):
        return False
    if not target.loads_register_groups or dot.activation == "int16":
        return False  # transformed inputs must fit in int16
    direct, by_tiles = _integer_instructions(window, dot, shape, weight.shape[0])
    if by_tiles >= CLEAR_WIN * direct:
        return False
    return largest_sum(weight, dot.activation, bias) <= MAX_INT32


def _integer_instructions(
    window: Window, dot: DotLayout, shape: tuple[int, ...], out_channels: int
) -> tuple[float, float]:
    """Of a direct convolution of bytes and of F(2x2, 3x3), on RVV."""
    n, channels, height, width = shape
    oh, ow = window.output_size(height, width)
    out_vectors, in_vectors = (math.ceil(x / dot.block) for x in (out_channels, channels))
    direct = INTEGER_DIRECT * n * oh * ow * TAPS**2 * channels * out_vectors
    tiles = n * math.prod(tiles_of(window, height, width, 2))
    products = (2 + TAPS - 1) ** 2 * in_vectors * dot.block * out_vectors
    transforms = INTEGER_TRANSFORM * (in_vectors + out_vectors)
    return direct, tiles * (INTEGER_PRODUCT * products + transforms)


def largest_sum(weight: np.ndarray, activation: str, bias: np.ndarray) -> int:
    """What no number in between exceeds, whatever the input.

    Transformed inputs are sums of four values. All sums are counted as if nothing cancelled out.
    """
    largest = 4 * max(
        abs(int(bound)) for bound in (np.iinfo(activation).min, np.iinfo(activation).max)
    )
    products = np.abs(transform_weight(weight, 2).astype("int64")).sum(axis=2) * largest
    at = np.abs(np.array([[1, 1, 1, 0], [0, 1, -1, -1]]))
    outputs = np.einsum("ai,bj,ijo->abo", at, at, products.reshape(4, 4, -1))
    return int((outputs + INTEGER_SCALE * np.abs(bias)).max(initial=0))


def emit_conv2d(
    builder: relax.BlockBuilder,
    x: Packed,
    weight: np.ndarray,
    window: Window,
    shape: tuple[int, ...],
    m: int,
    block: int,
    zero: int = 0,
) -> Packed:
    """Emit a convolution with weights [OC, IC, 3, 3] in tiles of m x m outputs.

    Args:
        shape: the logical shape of the result.
        block: of the result; that of x as well, which may be larger where x are bytes.
        zero: their zero point.
    """
    x = x.viewed(builder, collapsed=False)
    kernel = relax.const(pack_weight(weight, m, block))
    result = builder.emit_te(
        lambda data, kernel: conv2d(data, kernel, window, m, zero),
        x.expr,
        kernel,
        primfunc_name_hint="winograd_conv2d",
        primfunc_attrs=FUSABLE,
    )
    return Packed(result, shape, block)


def _direct_cycles(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int, bits: int
) -> float:
    n, channels, height, width = shape
    oh, ow = window.output_size(height, width)
    taps = math.prod(window.kernel)
    products = n * oh * ow * taps * channels * _vectors(target, out_channels, bits)
    weights = taps * channels * out_channels
    arithmetic = DIRECT_OVERHEAD * products / target.vector.fma_per_cycle
    return arithmetic + weight_cycles(target, bits // 8 * weights)


def _winograd_cycles(
    target: Target, window: Window, shape: tuple[int, ...], out_channels: int, m: int, bits: int
) -> float:
    n, channels, height, width = shape
    points = (m + TAPS - 1) ** 2
    out_vectors = _vectors(target, out_channels, bits)
    of_input, of_output = (
        _transform_cycles(target, points, count) for count in TRANSFORM_INSTRUCTIONS[m]
    )
    products = points * channels * out_vectors / target.vector.fma_per_cycle
    tile = (
        PRODUCT_OVERHEAD * products
        + of_input * _vectors(target, channels, bits)
        + of_output * out_vectors
    )
    tiles = n * math.prod(tiles_of(window, height, width, m))
    return tiles * tile + weight_cycles(target, bits // 8 * points * channels * out_channels)


def _transform_cycles(target: Target, points: int, instructions: int) -> float:
    """One transform of one vector, whose results are written to L2 and read from there."""
    of_instruction, of_line = prices(target)
    lines = 2 * points * target.vector.bits // 8 / target.caches.line
    return instructions * of_instruction + lines * of_line


def prices(target: Target) -> tuple[float, float]:
    """Cycles of an instruction, and of a line from L2 beside the work that hides most of it."""
    fit = target.estimate
    if fit is not None:
        return fit.cycles_per_instruction, fit.cycles_per_l1d_miss
    return 0.9 / target.vector.fma_per_cycle, 0.6 if target.caches.l3 else 4.0


def _vectors(target: Target, channels: int, bits: int) -> int:
    return math.ceil(channels / target.vector.lanes(bits))


def weight_cycles(target: Target, nbytes: int) -> float:
    """Cycles that weights from memory cost beside the arithmetic that hides most."""
    return nbytes * (BYTE_CYCLES if target.caches.l3 else BYTE_CYCLES_WITHOUT_L3)
