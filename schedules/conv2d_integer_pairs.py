"""Convolution of bytes, two pixels by two channels an instruction (AArch64's i8mm).

    parallel n, block of rows, chunk of output channels, (oh)
      ow_tile, oc_tile of the chunk
        acc[pairs of pixels][pairs of channels] = 0
        for block of input channels, kh, kw:
          inputs = vectors of a pixel's channels
          for step of the block:
            acc[p][c] = mmla(acc[p][c], inputs[2p, 2p + 1].step, w[2c, 2c + 1])      (unrolled)
        epilogue over the tile

Halves of two vectors make the operand of a pair. Sums lie as 2 x 2 in a register, until the
epilogue takes them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tvm import s_tir

from compiler.passes.integer_pairs import KIND
from compiler.target import Target
from schedules.access import axes_of, cost
from schedules.blocks import (
    Anchored,
    Block,
    element_bytes,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.dots import multiply_pairs, tile_weights
from schedules.intrinsics.neon_mmla import PAIR, mmla
from schedules.lanes import Blocking, Problem, candidates, cycles, promising_blockings
from schedules.tiles import parallel_grain

# Pairs of output channels: all of a block, so that the inputs' halves are put together once.
MAX_COLUMNS = 8
# Shorter vectors of results are no whole register.
MIN_COLUMNS = 2


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_pairs.conv2d``; None for any other."""
    anchored = find_anchored(sch, KIND)
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    *stages, pairs = anchored.stages
    problem = _describe(sch, anchored, pairs)
    for stage in stages:
        schedule_stage(sch, stage)
    default = min(_blockings(target, problem), key=lambda b: cycles(target, problem, b))
    blocking = choose(
        sch, default, promising_blockings(target, problem, _blockings(target, problem))
    )
    intrinsic = mmla(str(sch.get(pairs).reads[0].source.ty.dtype))
    _tile(sch, target, anchored, pairs, problem, blocking, intrinsic)
    tile = blocking.tile
    return {
        "template": "conv2d_integer",
        "decision": f"tile {tile.rows}x{tile.columns} pairs, chunk {blocking.chunk}, "
        f"block {blocking.block}",
        "intrinsic": intrinsic.removeprefix("edgecc."),
    }


def _describe(sch: s_tir.Schedule, anchored: Anchored, pairs: Block) -> Problem:
    """Of pairs of pixels by pairs of channels."""
    batch, blocks, height, _, lanes = (extent(sch, x) for x in sch.get_loops(anchored.output))
    steps, kernel_height, kernel_width, group = (
        int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[7:]
    )
    *_, count, _, _, _, vector = (int(v.dom.extent) for v in sch.get(pairs).iter_vars)
    source = sch.get(pairs).reads[0].source.ty
    shape, nbytes = [int(d) for d in source.shape], element_bytes(source.dtype)
    axes = axes_of(sch, pairs)
    down, tap, pixel = ((axes[i].loads[0] or 0) // shape[4] for i in (2, 5, 6))
    per_block = vector // group
    return Problem(
        batch,
        height,
        count,
        blocks * lanes // PAIR,
        lanes // PAIR,
        steps // per_block,
        kernel_height,
        kernel_width,
        per_block,
        PAIR * max(1, pixel),
        max(1, down // shape[3]),
        max(1, tap),
        plain=False,
        input_bytes=math.prod(shape) * nbytes,
        vector_bytes=PAIR * group * nbytes,
        epilogue=1 + cost(sch, anchored.output) // 2,
        pixel_bytes=vector * nbytes,
        pixels=PAIR,
        most_columns=MAX_COLUMNS,
    )


def _blockings(target: Target, problem: Problem) -> Iterator[Blocking]:
    """Whole blocks of channels, and sums that never go through memory."""
    for blocking in candidates(target, problem):
        whole = blocking.chunk % problem.group_blocks == 0
        if whole and blocking.tile.columns >= MIN_COLUMNS and blocking.depth == problem.channels:
            yield blocking


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    pairs: Block,
    problem: Problem,
    blocking: Blocking,
    intrinsic: str,
) -> None:
    tile, anchor = blocking.tile, anchored.anchor
    tile_weights(sch, anchor, problem.lanes, tile.columns * PAIR)
    macs = iterations(sch, anchor)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    chunk, oc_inner = sch.split(oc, [None, blocking.chunk // problem.group_blocks])
    part, lane = sch.split(lane, [None, tile.columns * PAIR])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows * PAIR])
    one_row = problem.height == 1
    row_block, row = sch.split(ow_outer if one_row else oh, [None, blocking.block])
    if one_row:
        outer, ow_outer = [n, row_block, chunk, oh], row
    else:
        outer = [n, row_block, chunk, row]
    sch.reorder(*outer[1:], ow_outer, oc_inner, part, ow_inner, lane)
    partition_tail(sch, ow_outer)
    sch.compute_at(anchor, part, preserve_unit_loops=True)
    *_, pair, channels, pixel, channel, step, kh, kw, group = sch.get_loops(anchor)
    block, step = sch.split(step, [None, problem.lanes])
    sch.reorder(block, kh, kw, step, channels, pair, pixel, channel, group)
    sch.compute_at(pairs, kw, preserve_unit_loops=True)
    *_, count, _, _, side, vector = sch.get_loops(pairs)
    half = extent(sch, group)
    width = 2 * half if extent(sch, vector) % (2 * half) == 0 else half
    whole, vector = sch.split(vector, [None, width])
    sch.vectorize(vector)
    for loop in (count, side, whole, step, channels, pair):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.unroll(ow_inner)
    spread(sch, outer, macs, parallel_grain(target))
    multiply_pairs(sch, anchor, block, intrinsic)
