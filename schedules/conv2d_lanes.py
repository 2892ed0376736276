"""Direct convolution where multiply-adds take one lane of a vector as their scalar (AArch64).

    parallel n, block of rows, chunk of columns, (oh)
      depth block                        (one long row only; then sums go through memory)
        ow_tile, oc_tile of the chunk
          acc[rows][columns] = 0
          for ic, kh:
            inputs = vectors of channels, or of neighbouring pixels
            for kw, lane:
              acc[r][c] += inputs[r].lane * w[c]      (unrolled, one FMA each)
          epilogue over the tile

Weights are rearranged so that this reads them from the first to the last byte.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tvm import s_tir

from compiler.target import Target
from schedules.access import axes_of, cost
from schedules.blocks import (
    Anchored,
    Block,
    Loop,
    extent,
    iterations,
    load_neighbours,
    partition_tail,
    result_bits,
    spread,
)
from schedules.choices import Chooser
from schedules.constants import rearrange_constant
from schedules.lanes import (
    Blocking,
    Problem,
    choose_blocking,
    promising_blockings,
    weights_of_one_load,
)
from schedules.tiles import parallel_grain

# Steps of a 1x1 convolution's outer reduction that one round of its loop makes.
DEPTHS_UNROLLED = (4, 2, 3)


def schedule(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    choose: Chooser,
    by_part: bool = False,
) -> str:
    """Schedule an anchor of ``packed_ops.conv2d``; returns the decision.

    Args:
        by_part: each part of a batch is one task, which computes more than this convolution.
    """
    problem = replace(describe(sch, anchored), by_part=by_part)
    blocking = choose(sch, choose_blocking(target, problem), promising_blockings(target, problem))
    tile, passes = blocking.tile, problem.channels // blocking.depth
    vectors = 0
    if _rearrange_weights(sch, anchored, problem, blocking):
        vectors = weights_of_one_load(target, problem, tile)
    macs = iterations(sch, anchored.anchor)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    one_row = problem.height == 1
    chunk, oc_tile, oc_inner = sch.split(oc, [None, blocking.chunk // tile.columns, tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows])
    row_block, row = sch.split(ow_outer if one_row else oh, [None, blocking.block])
    if one_row:
        outer, ow_outer = [n, row_block, chunk, oh], row
    else:
        outer = [n, row_block, chunk, row]
    sch.reorder(*outer[1:], ow_outer, oc_tile, ow_inner, oc_inner, lane)
    sums = anchored.anchor
    if passes > 1:
        rolled, depth = _accumulate_in_memory(sch, sums, outer[-1], blocking)
    else:
        rolled = sums
        sch.compute_at(rolled, oc_tile, preserve_unit_loops=True)
    partition_tail(sch, ow_outer)
    first = _unroll_tile(sch, target, rolled, problem, blocking, vectors)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    grain = parallel_grain(target, problem.element_bits)
    spread(sch, outer[:1] if by_part else outer, macs, grain)
    if passes > 1:
        start = sch.decompose_reduction(sums, depth)
        sch.vectorize(sch.get_loops(start)[-1])
    sch.decompose_reduction(rolled, first)
    through = "" if passes == 1 else f", depth {blocking.depth * problem.lanes}"
    return (
        f"tile {tile.rows}x{tile.columns}, chunk {blocking.chunk}, block {blocking.block}{through}"
    )


def describe(sch: s_tir.Schedule, anchored: Anchored) -> Problem:
    """The problem an unscheduled anchor poses."""
    batch, blocks, height, width, lanes = (extent(sch, x) for x in sch.get_loops(anchored.output))
    anchor = sch.get(anchored.anchor)
    channels, kernel_height, kernel_width, inner = (int(v.dom.extent) for v in anchor.iter_vars[5:])
    shape = [int(d) for d in anchor.reads[0].source.ty.shape]
    # How far one step of oh, ow and kw moves in the input.
    axes = axes_of(sch, anchored.anchor)
    down, along, tap = ((axes[i].loads[0] or 0) // shape[4] for i in (-7, -6, -2))
    bits = result_bits(sch, anchored.anchor)
    groups = max(1, shape[1] * shape[4] // (channels * inner))
    touched = min(
        math.prod(shape), batch * height * width * channels * inner * kernel_height * kernel_width
    )
    return Problem(
        batch,
        height,
        width,
        blocks,
        blocks // groups if blocks % groups == 0 else 1,
        channels,
        kernel_height,
        kernel_width,
        inner,
        max(1, along),
        max(1, down // shape[3]),
        max(1, tap),
        plain=shape[4] == 1,
        input_bytes=touched * bits // 8,
        vector_bytes=lanes * bits // 8,
        epilogue=1 + cost(sch, anchored.output),
        element_bits=bits,
    )


def _rearrange_weights(
    sch: s_tir.Schedule, anchored: Anchored, problem: Problem, blocking: Blocking
) -> bool:
    """[OCb, IC, KH, KW, ci, c] -> [chunk, depth block, tile, ic, KH, KW, ci, column, c]."""
    columns = blocking.tile.columns
    factors = {0: [blocking.chunk // columns, columns], 1: [blocking.depth]}
    return rearrange_constant(sch, anchored.anchor, 1, factors, [0, 3, 1, 4, 5, 6, 7, 2, 8])


def _accumulate_in_memory(
    sch: s_tir.Schedule, sums: Block, task: Loop, blocking: Blocking
) -> tuple[Block, Loop]:
    """Let the anchor add up what passes over parts of the depth leave.

    Returns:
        the block that computes a tile's pass, and the loop over passes.
    """
    tile = blocking.tile
    depth, _ = sch.split(sch.get_loops(sums)[-4], [None, blocking.depth])
    rolled = sch.rfactor(depth, 0)
    sch.compute_at(sums, task, preserve_unit_loops=True)
    *_, depth, n, c, h, w, k = sch.get_loops(sums)
    oc_tile, oc_inner = sch.split(c, [None, tile.columns])
    ow_outer, ow_inner = sch.split(w, [None, tile.rows])
    sch.reorder(depth, ow_outer, oc_tile, n, h, ow_inner, oc_inner, k)
    sch.compute_at(rolled, oc_tile, preserve_unit_loops=True)
    partition_tail(sch, ow_outer)
    sch.vectorize(k)
    sch.unroll(ow_inner)
    sch.unroll(oc_inner)
    return rolled, depth


def _unroll_tile(
    sch: s_tir.Schedule,
    target: Target,
    rolled: Block,
    problem: Problem,
    blocking: Blocking,
    vectors: int,
) -> Loop:
    """Order and unroll the loops of a tile; returns the outermost reducing one."""
    *_, c, _h, w, k, ic, kh, kw, step = sch.get_loops(rolled)
    shares = problem.shares(blocking.tile, target.vector.registers)
    several = [kh, kw] if problem.kernel_height * problem.kernel_width > 1 else []
    unrolled: list[Loop] = []
    if not several:
        # One round of all would make the weights invariant, and hoisted to be spilled.
        depth = extent(sch, ic)
        choices = DEPTHS_UNROLLED if vectors and not problem.plain else (2,)
        parts = next((p for p in choices if depth % p == 0 and depth > p), 1)
        ic, part = sch.split(ic, [None, parts])
        unrolled = [part]
    sch.reorder(ic, *unrolled, kh, kw, step, w, c, k)
    if problem.plain or problem.lanes > 1:
        inputs = sch.cache_read(rolled, 0, "local")
        sch.compute_at(inputs, kh if shares else kw, preserve_unit_loops=True)
        *_, pixel, lane = sch.get_loops(inputs)
        if problem.plain:
            sch.vectorize(sch.fuse(pixel, lane))
        else:
            sch.vectorize(lane)
            sch.unroll(pixel)
        if shares:
            unrolled.append(kw)
    if vectors:
        load_neighbours(sch, rolled, step, vectors, blocking.tile, [w, c, k])
    elif problem.plain or problem.lanes > 1:
        unrolled.append(step)
    for loop in unrolled:
        sch.unroll(loop)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(w)
    return ic
