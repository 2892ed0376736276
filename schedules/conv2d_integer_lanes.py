"""Convolution of bytes where a product takes one part of a vector of inputs (ARM).

    parallel n, block of rows, chunk of output channels, (oh)
      ow_tile, oc_tile of the chunk
        acc[rows][vectors of channels] = 0
        for block of input channels, kh, kw:
          inputs = vectors of one pixel's channels
          for step of the block:
            acc[r][v] = dot(acc[r][v], inputs[r].step, w[v])      (unrolled)
        epilogue over the tile

Weights are rearranged so that this reads them from the first to the last byte. Which tile and
chunk are best is the question of the float32 convolution (``lanes``), with other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tvm import s_tir

from compiler.passes.packed_ops import TOGETHER
from compiler.target import Target
from schedules.access import axes_of, cost
from schedules.blocks import (
    Anchored,
    Block,
    Loop,
    element_bytes,
    extent,
    iterations,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.dots import sum_in_parts, tile_weights, use_intrinsic
from schedules.intrinsics.dot import Dot
from schedules.intrinsics.neon_mlal import LANES
from schedules.lanes import Blocking, Problem, candidates, cycles, promising_blockings
from schedules.tiles import parallel_grain


def schedule(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, dot: Dot, choose: Chooser
) -> str:
    """Schedule an anchor of ``integer_ops.conv2d``; returns the decision."""
    problem = _describe(sch, anchored, dot)
    joins_pixels = _join_pixels(sch, anchored)
    blocking = choose(
        sch,
        _best(target, problem),
        promising_blockings(target, problem, _blockings(target, problem)),
    )
    tile = blocking.tile
    tile_weights(sch, anchored.anchor, problem.lanes, tile.columns * dot.lanes)
    macs = iterations(sch, anchored.anchor)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    per_block = problem.group_blocks
    chunk, oc_inner = sch.split(oc, [None, blocking.chunk // per_block])
    part, lane = sch.split(lane, [None, tile.columns * dot.lanes])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows])
    one_row = problem.height == 1
    row_block, row = sch.split(ow_outer if one_row else oh, [None, blocking.block])
    if one_row:
        outer, ow_outer = [n, row_block, chunk, oh], row
    else:
        outer = [n, row_block, chunk, row]
    sch.reorder(*outer[1:], ow_outer, oc_inner, part, ow_inner, lane)
    partition_tail(sch, ow_outer)
    parts = sum_in_parts(sch, anchored.anchor, part) if dot.collect else None
    if parts is None:
        sch.compute_at(anchored.anchor, part, preserve_unit_loops=True)
    sums = parts.block if parts else anchored.anchor
    shares = problem.shares(tile, target.vector.registers)
    first = _unroll_tile(sch, sums, problem, dot, None if joins_pixels else shares)
    sch.vectorize(lane)
    sch.unroll(ow_inner)
    spread(sch, outer, macs, parallel_grain(target))
    if parts:
        use_intrinsic(sch, anchored.anchor, dot.collect, parts.outermost)
    use_intrinsic(sch, sums, dot.name, first, loops=3 if parts else 2)
    return f"tile {tile.rows}x{tile.columns}, chunk {blocking.chunk}, block {blocking.block}"


def _join_pixels(sch: s_tir.Schedule, anchored: Anchored) -> bool:
    """Let rows lie as [pixel * channel], where a group is of several pixels."""
    anchor = sch.get(anchored.anchor)
    channels = int(anchor.reads[0].source.ty.shape[4])
    if channels % int(anchor.iter_vars[-1].dom.extent) == 0:
        return False
    if not anchored.stages:
        schedule_stage(sch, sch.cache_read(anchored.anchor, 0, "global"))
    sch.transform_layout(
        anchored.anchor, ("read", 0), lambda n, b, h, w, c: (n, b, h, 0 * w, w * channels + c)
    )
    return True


def _describe(sch: s_tir.Schedule, anchored: Anchored, dot: Dot) -> Problem:
    """The problem as vectors of ``dot.lanes`` output channels."""
    batch, blocks, height, width, lanes = (extent(sch, x) for x in sch.get_loops(anchored.output))
    anchor = sch.get(anchored.anchor)
    steps, kernel_height, kernel_width, group = (int(v.dom.extent) for v in anchor.iter_vars[5:])
    source = anchor.reads[0].source.ty
    shape, nbytes = [int(d) for d in source.shape], element_bytes(source.dtype)
    # How far one step of oh, ow and kw moves in the input.
    axes = axes_of(sch, anchored.anchor)
    down, along, tap = ((axes[i].loads[0] or 0) // shape[4] for i in (-7, -6, -2))
    together = sch.get(anchored.anchor).annotations.get(TOGETHER)
    per_pixel = max(1, shape[4] // group) if together is None else int(together)
    return Problem(
        batch,
        height,
        width,
        blocks * lanes // dot.lanes,
        lanes // dot.lanes,
        steps // per_pixel,
        kernel_height,
        kernel_width,
        per_pixel,
        max(1, along),
        max(1, down // shape[3]),
        max(1, tap),
        plain=False,
        input_bytes=math.prod(shape) * nbytes,
        vector_bytes=dot.lanes * group * nbytes,
        epilogue=1 if dot.collect else 1 + cost(sch, anchored.output) // 2,
        instructions=dot.instructions,
        temporaries=dot.temporaries,
        pixel_bytes=shape[4] * nbytes,
    )


def _best(target: Target, problem: Problem) -> Blocking:
    return min(_blockings(target, problem), key=lambda b: cycles(target, problem, b))


def _blockings(target: Target, problem: Problem) -> Iterator[Blocking]:
    """Whole blocks of channels, and sums that never go through memory."""
    for blocking in candidates(target, problem):
        whole = blocking.chunk % problem.group_blocks == 0
        collects = blocking.tile.columns % LANES == 0 or not problem.temporaries
        if whole and collects and blocking.depth == problem.channels:
            yield blocking


def _unroll_tile(
    sch: s_tir.Schedule, anchor: Block, problem: Problem, dot: Dot, shares: bool | None
) -> Loop:
    """Order and unroll the loops of a tile; returns the outermost reducing one.

    Args:
        shares: whether the taps of a kernel row use one set of loaded pixels; None where pixels
            are no vectors.
    """
    if dot.collect:
        *_, lane, n, c, h, w, vector, step, kh, kw, high, low = sch.get_loops(anchor)
        sch.reorder(n, c, h, lane)
        groups = [high, low]
    else:
        *_, w, k, step, kh, kw, group = sch.get_loops(anchor)
        vector, lane = sch.split(k, [None, dot.lanes])
        groups = [group]
    block, step = sch.split(step, [None, problem.lanes])
    sch.reorder(block, kh, kw, step, vector, w, lane, *groups)
    if shares is not None:
        inputs = sch.cache_read(anchor, 0, "global")
        sch.compute_at(inputs, kh if shares else kw, preserve_unit_loops=True)
        *_, pixel, channel = sch.get_loops(inputs)
        sch.vectorize(channel)
        sch.unroll(pixel)
    for loop in (kw, step, vector, w):
        sch.unroll(loop)
    return block
