"""Direct convolution on packed layouts.

A tile of output pixels x output-channel vectors stays in registers while the reduction runs:

    parallel n, oc_tile, oh
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
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.tiles import RegisterTile, choose_register_tile


def apply(sch: s_tir.Schedule, target: Target) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.conv2d``; None for any other."""
    anchored = find_anchored(sch, "conv2d")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    loops = sch.get_loops(anchored.output)
    blocks, width, lanes = extent(sch, loops[1]), extent(sch, loops[3]), extent(sch, loops[4])
    depth = math.prod(int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:])
    tile = choose_register_tile(target, width, blocks, lanes, depth)
    _tile(sch, anchored, tile)
    return {"template": "conv2d", "decision": f"tile {tile.rows}x{tile.columns}"}


def _tile(sch: s_tir.Schedule, anchored: Anchored, tile: RegisterTile) -> None:
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    macs = iterations(sch, anchored.anchor)
    oc_outer, oc_inner = sch.split(oc, [None, tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows])
    sch.reorder(n, oc_outer, oh, ow_outer, ow_inner, oc_inner, lane)
    sch.compute_at(anchored.anchor, ow_outer, preserve_unit_loops=True)
    partition_tail(sch, ow_outer)
    *_, c, _h, w, k, r_outer, kh, kw, r_inner = sch.get_loops(anchored.anchor)
    sch.reorder(r_outer, kh, kw, r_inner, w, c, k)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(w)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    spread(sch, [n, oc_outer, oh], macs)
    sch.decompose_reduction(anchored.anchor, r_outer)
