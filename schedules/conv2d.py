"""Direct convolution on packed layouts.

A tile of output pixels x output-channel vectors stays in registers while the reduction runs:

    parallel n, block of rows, oc_tile, oh
      ow_tile
        acc[rows][columns] = 0
        for ic_outer, kh, kw, ic_inner:
          acc[r][c] += broadcast(x[...]) * w[c][...]       (unrolled, one FMA each)
        epilogue over the tile
"""

from __future__ import annotations

import math

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import (
    Anchored,
    extent,
    find_anchored,
    iterations,
    load_rows_as_vectors,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.tiles import (
    RegisterTile,
    choose_register_tile,
    choose_row_block,
    parallel_grain,
    split_for_cores,
)


def apply(sch: s_tir.Schedule, target: Target) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.conv2d``; None for any other."""
    anchored = find_anchored(sch, "conv2d")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    batch, blocks, height, width, lanes = (extent(sch, x) for x in sch.get_loops(anchored.output))
    _, _, kw, channels = reduction = [
        int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:]
    ]
    depth = math.prod(reduction)
    tile = choose_register_tile(
        target, width, blocks, lanes, depth, neighbours_share=kw > 1 and channels == 1
    )
    # One long row (a 1x1 convolution's) is cut into blocks as several short ones are.
    unit = width if height > 1 else tile.rows
    block = choose_row_block(
        target,
        row_bytes=_input_bytes(sch, anchored, height * width * depth) * unit // (height * width),
        rows=height * math.ceil(width / unit),
        weight_bytes=depth * blocks * lanes * 4,
        column_tiles=math.ceil(blocks / tile.columns),
    )
    if height == 1:
        tasks = batch * math.ceil(blocks / tile.columns)
        block = split_for_cores(target, math.ceil(width / tile.rows), block, tasks)
    _tile(sch, target, anchored, tile, block)
    return {"template": "conv2d", "decision": f"tile {tile.rows}x{tile.columns}, block {block}"}


def _input_bytes(sch: s_tir.Schedule, anchored: Anchored, values: int) -> int:
    """Bytes of the (padded) activations that are read: strides may leave out most of them."""
    shape = sch.get(anchored.anchor).reads[0].source.ty.shape
    return min(math.prod(int(d) for d in shape), values) * 4


def _tile(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, tile: RegisterTile, block: int
) -> None:
    macs = iterations(sch, anchored.anchor)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    one_row = extent(sch, oh) == 1
    oc_outer, oc_inner = sch.split(oc, [None, tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows])
    row_block, row = sch.split(ow_outer if one_row else oh, [None, block])
    if one_row:
        ow_outer = row
        sch.reorder(n, row_block, oc_outer, oh, ow_outer, ow_inner, oc_inner, lane)
    else:
        sch.reorder(n, row_block, oc_outer, row, ow_outer, ow_inner, oc_inner, lane)
    sch.compute_at(anchored.anchor, ow_outer, preserve_unit_loops=True)
    partition_tail(sch, ow_outer)
    *_, c, _h, w, k, r_outer, kh, kw, r_inner = sch.get_loops(anchored.anchor)
    sch.reorder(r_outer, kh, kw, r_inner, w, c, k)
    if target.arch == "aarch64" and extent(sch, r_inner) > 1:
        load_rows_as_vectors(sch, anchored.anchor, kw, r_inner)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(w)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    rows = [] if one_row else [row]
    spread(sch, [n, row_block, oc_outer, *rows], macs, parallel_grain(target))
    sch.decompose_reduction(anchored.anchor, r_outer)
