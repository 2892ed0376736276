"""What an operator costs in integers and in floats, estimated before the graph is touched.

Integers are not always faster. Without an instruction for products of four bytes they gain little
on a multiplication, and floats have Winograd's algorithm, which needs a quarter of them; inputs of
three channels fill a part of a group of bytes only. Both ways are counted in instructions and
lines, as everywhere at the prices of the CPU's fit where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import relax

from compiler.passes import winograd
from compiler.passes.dot_layout import DotLayout, dot_layouts
from compiler.passes.packed_ops import Window
from compiler.passes.packed_values import shape_of
from compiler.target import Target
from schedules.intrinsics.dot import dot_product

# Weights of floats are 4 to 16 times as large, which must pay beside the time that it takes to read
# them: cycles a byte.
LIBRARY_BYTE_CYCLES = 0.08
# Integers lose where floats take less than this part of the time: above it estimates do not tell,
# and integers need less memory.
CLEAR_WIN = 0.8
# Multiply-adds a cycle of a CPU whose floats are as fast as its integers.
PIPELINED = 2.0
# All instructions for one that multiplies, also of sums in parts; instructions to add up the parts
# of a sum, and to scale, round and store a vector of sums.
LOOPS, PARTS_OVERHEAD, PARTS, EPILOGUE = 1.0, 1.17, 3.2, 5.0
# Instructions to quantise a number of the model's input, and a vector of floats behind a sum.
QUANTIZE, QUANTIZE_VECTOR = 6.0, 5.0
# Instructions that Winograd's tiles take to read a vector of bytes as floats, with what they share.
DEQUANTIZE_VECTOR = 7.0
# Products of matrices on RVV, counted on SpacemiT X60 over 60 shapes. Vectors of columns that share
# a scalar; instructions for one that multiplies, without the scalar; those to store a vector of
# sums, more where only a part of it is stored (up to four go one by one); to quantise a number.
WIDENING_COLUMNS, FLOAT_COLUMNS = 4, 8
WIDENING_STEP, FLOAT_STEP = 1.3, 1.12
WIDENING_VECTOR, FLOAT_VECTOR, RAGGED_VECTOR = 5.0, 4.0, 20.0
FEW_COLUMNS = 4
QUANTIZE_ROWS = 1.0


@dataclass(frozen=True)
class Costs:
    """Estimated cycles of one core."""

    int8: float
    float32: float

    @property
    def slower_in_integers(self) -> bool:
        return self.float32 < CLEAR_WIN * self.int8

    def __str__(self) -> str:
        return f"{self.int8 / 1e6:.3g} M cycles in int8, {self.float32 / 1e6:.3g} M in float32"


def convolution_costs(
    call: relax.Call, target: Target, from_outside: bool, exact: bool = False
) -> Costs | None:
    """Of a convolution with constant weights; None where integers are known to be faster, or where
    it is not known what they cost.

    Args:
        from_outside: its input is the model's, in floats.
        exact: floats must not be computed by Winograd's algorithm.
    """
    attrs = call.attrs
    layouts = dot_layouts(target)
    if getattr(call.op, "name", "") != "relax.nn.conv2d" or int(attrs.groups) != 1:
        return None
    # RVV: integers have Winograd's algorithm as well (and half the instructions elsewhere).
    if not layouts or target.loads_register_groups:
        return None
    # Without a fit an instruction has the price of a multiply-add of floats. Where that is slow
    # (SSE2, Cortex-A7) it says nothing of integers.
    if target.estimate is None and target.vector.fma_per_cycle < PIPELINED:
        return None
    shape, weight = shape_of(call.args[0]), shape_of(call.args[1])
    strides, pads, dilation = (
        tuple(int(v) for v in values) for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    window = Window(weight[2:], strides, pads, dilation)  # type: ignore[arg-type]
    if not from_outside and (exact or not winograd.computes(window)):
        return None
    return Costs(
        min(_in_integers(target, d, window, shape, weight[0], from_outside) for d in layouts),
        _in_floats(target, window, shape, weight[0], from_outside, exact),
    )


def matmul_costs(call: relax.Call, target: Target, sharing: int) -> Costs | None:
    """Of a matmul by constant weights; None where integers are known to be faster, or where it is
    not known what they cost.

    Args:
        sharing: products whose left operand is quantised for all of them together; 0 where it is
            stored as integers already.
    """
    if not target.loads_register_groups:
        return None
    *batch, rows, depth = shape_of(call.args[0])
    lanes, columns = target.vector.lanes(), shape_of(call.args[1])[-1]
    rows *= math.prod(batch)
    blocks, vectors = math.ceil(columns / (2 * lanes)), math.ceil(columns / lanes)
    integers = blocks * (WIDENING_STEP + 1 / min(blocks, WIDENING_COLUMNS)) * depth
    integers += blocks * WIDENING_VECTOR + _ragged(columns, 2 * lanes)
    floats = vectors * (FLOAT_STEP + 1 / min(vectors, FLOAT_COLUMNS)) * depth
    floats += vectors * FLOAT_VECTOR + _ragged(columns, lanes)
    if sharing:
        integers += QUANTIZE_ROWS * depth / sharing
    else:
        floats += DEQUANTIZE_VECTOR * depth / lanes + QUANTIZE_VECTOR * vectors
    cycles, _ = winograd.prices(target)
    return Costs(cycles * rows * integers, cycles * rows * floats)


def _ragged(columns: int, block: int) -> float:
    """Instructions that store a part of a block of columns, for each row."""
    return RAGGED_VECTOR if columns % block > FEW_COLUMNS else 0.0


def _in_integers(
    target: Target,
    layout: DotLayout,
    window: Window,
    shape: tuple[int, ...],
    out_channels: int,
    from_outside: bool,
) -> float:
    n, channels, height, width = shape
    dot = dot_product(target, layout.operand, layout.group)
    assert dot is not None
    (kh, kw), group = window.kernel, layout.group
    block = layout.input_block(channels, window.dilation[1])
    if block % group:
        depth = kh * math.ceil(kw * block / group) * group
    else:
        depth = kh * kw * math.ceil(channels / group) * group
    oh, ow = window.output_size(height, width)
    sums = n * oh * ow * math.ceil(out_channels / layout.block) * layout.block
    products = sums * depth / (dot.lanes * group) * dot.instructions
    if dot.collect:
        instructions = PARTS_OVERHEAD * products + PARTS * sums
    else:
        instructions = LOOPS * products + EPILOGUE * sums / target.vector.lanes()
    if from_outside:
        instructions += QUANTIZE * math.prod(shape)
    weights = window.kernel[0] * window.kernel[1] * channels * out_channels
    cycles, _ = winograd.prices(target)
    return cycles * instructions + winograd.weight_cycles(target, weights)


def _in_floats(
    target: Target,
    window: Window,
    shape: tuple[int, ...],
    out_channels: int,
    from_outside: bool,
    exact: bool,
) -> float:
    """With what turns stored integers into floats and back."""
    cycles, _ = winograd.prices(target)
    lanes = target.vector.lanes()
    oh, ow = window.output_size(*shape[2:])
    vectors = shape[0] * oh * ow * math.ceil(out_channels / lanes)
    around = QUANTIZE_VECTOR * cycles * vectors
    if not from_outside:
        around += DEQUANTIZE_VECTOR * cycles * math.prod(shape) / lanes
    work, nbytes = winograd.float_costs(target, window, shape, out_channels, exact)
    return around + work + LIBRARY_BYTE_CYCLES * nbytes
