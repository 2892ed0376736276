"""Convolution of bytes by widening multiply-adds (RVV's vwmacc): int16 times a scalar, in int32.

parallel n, block of rows, oc_tile, oh
  ow_tile
    acc[rows][columns] = 0
    for kh, kw, ic:
      acc[r][c] += x[r] * w[c]                        (in groups: ``widening``)
    epilogue over the tile
"""

from __future__ import annotations

from dataclasses import replace

from tvm import s_tir

from compiler.passes.packed_ops import GROUPS
from compiler.target import Target
from schedules.blocks import (
    Anchored,
    Block,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.constants import rearrange_constant
from schedules.conv2d_integer import Decision, Space
from schedules.tiles import parallel_grain
from schedules.widening import (
    INTRINSIC,
    WideningProblem,
    group_steps,
    reduce_in_groups,
    widening_dot,
)


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_ops.conv2d``; None for any other."""
    if not target.loads_register_groups:
        return None
    anchored = find_anchored(sch, "conv2d_integer")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    space = Space.of(sch, target, anchored, widening_dot(target), WideningProblem)
    dimension, neighbours = _grouped(sch, anchored.anchor)
    tiling = WideningProblem(**vars(space.tiling) | {"neighbours": neighbours})
    space = replace(space, tiling=tiling)
    decision = choose(sch, space.default(), space.decisions())
    _tile(sch, target, anchored, decision, dimension, neighbours)
    return {
        "template": "conv2d_integer",
        "decision": str(decision),
        "intrinsic": INTRINSIC,
    }


def _grouped(sch: s_tir.Schedule, anchor: Block) -> tuple[int, int]:
    """Which dimension of the weights is the innermost of the reduction, and its neighbours.

    Input channels that lie together, or else a row of the window.
    """
    source, weights = (sch.get(anchor).reads[i].source.ty.shape for i in range(2))
    channels, steps = int(source[-1]), int(weights[1])
    if GROUPS in sch.get(anchor).annotations and steps % channels:
        return 1, steps
    return (1, channels) if channels > 1 or int(weights[3]) == 1 else (3, int(weights[3]))


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    decision: Decision,
    dimension: int,
    neighbours: int,
) -> None:
    macs = iterations(sch, anchored.anchor)
    tile = decision.tile
    # [OCb, IC, KH, KW, c, 1] -> [OCb / columns, the reduction, columns, c, 1]
    reduction = [3, 4, 2] if dimension == 1 else [2, 3, 4]
    grouped = rearrange_constant(
        sch, anchored.anchor, 1, {0: [tile.columns]}, [0, *reduction, 1, 5, 6]
    )
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    one_row = extent(sch, oh) == 1
    oc_outer, oc_inner = sch.split(oc, [None, tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, tile.rows])
    row_block, row = sch.split(ow_outer if one_row else oh, [None, decision.block])
    if one_row:
        ow_outer = row
        sch.reorder(row_block, oc_outer, oh, ow_outer, ow_inner, oc_inner, lane)
    else:
        sch.reorder(row_block, oc_outer, row, ow_outer, ow_inner, oc_inner, lane)
    partition_tail(sch, ow_outer)
    sch.compute_at(anchored.anchor, ow_outer, preserve_unit_loops=True)
    *_, c, _h, w, k, channel, kh, kw, inner = sch.get_loops(anchored.anchor)
    order = [kh, kw, channel, inner] if dimension == 1 else [channel, kh, kw, inner]
    extents = neighbours, group_steps(target, tile, neighbours)
    outer = reduce_in_groups(sch, anchored.anchor, tile, [w, c, k], order, extents, grouped)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    rows = [] if one_row else [row]
    spread(sch, [n, row_block, oc_outer, *rows], macs, parallel_grain(target))
    sch.decompose_reduction(anchored.anchor, outer)
