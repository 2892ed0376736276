"""Convolution of bytes by widening multiply-adds (RVV's vwmacc): int16 times a scalar, in int32.

parallel n, block of rows, oc_tile, oh
  ow_tile
    acc[rows][columns] = 0
    for kh, kw, ic:
      group[steps][columns] = w[...]                  (one load)
      acc[r][c] += x[r][step] * group[step][c]        (unrolled)
    epilogue over the tile

Code generation widens a group at once (``codegen/widening_products.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import s_tir

from compiler.passes.packed_ops import GROUPS
from compiler.target import Target
from schedules.blocks import (
    Anchored,
    Block,
    Loop,
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
from schedules.dot_tiles import DotProblem
from schedules.intrinsics.dot import Dot
from schedules.tiles import (
    MAX_ROWS,
    RegisterTile,
    divisors,
    parallel_grain,
    parts,
    worth_sharing,
)

# Registers of the largest group of widened weights; the bytes that they come from take half.
MAX_GROUP = 8
# Instructions that bring a group: load, address, widening, and two changes of the vector type.
GROUP_COST = 5
# Of loops and addresses, for each step of the reduction.
LOOP_COST = 0.75
# Multiply-adds, and scalars, of one round of the loop that is worth unrolling further.
UNROLLED_MACS = 192
MAX_SCALARS = 80


@dataclass(frozen=True)
class WideningProblem(DotProblem):
    """Tiles whose sums take two registers each and whose weights come in groups.

    Args:
        neighbours: steps of the reduction whose weights may come in one group.
    """

    neighbours: int = 1

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles whose columns divide, since a guard breaks up the load of a group."""
        for columns in range(1, min(self.columns, MAX_GROUP) + 1):
            for rows in range(1, min(self.rows, MAX_ROWS) + 1):
                tile = RegisterTile(rows, columns)
                if (
                    self.columns // self.groups % columns == 0
                    and _group_registers(target, tile) >= columns
                ):
                    yield tile

    def cycles(self, target: Target, tile: RegisterTile) -> float:
        """Instructions of one step of the reduction of all tiles."""
        column_tiles = math.ceil(self.columns / tile.columns)
        loads = GROUP_COST / group_steps(target, tile, self.neighbours)
        return sum(
            row_tiles * column_tiles * (rows * tile.columns + rows + loads + LOOP_COST)
            for rows, row_tiles in parts(target, self.rows, tile.rows)
        )

    def is_much_worse(
        self, target: Target, even: RegisterTile, tile: RegisterTile, batch: int
    ) -> bool:
        """By the instructions, and by the cores that find no work without blocks."""
        tasks = batch * math.ceil(self.columns / tile.columns)
        affordable = worth_sharing(target, tasks) * self.cycles(target, tile)
        return self.cycles(target, even) > affordable


def _group_registers(target: Target, tile: RegisterTile) -> int:
    """Registers for widened weights beside the sums of a tile and the bytes that they come from."""
    free = target.vector.registers - 2 * tile.rows * tile.columns
    return max((g for g in (1, 2, 4, MAX_GROUP) if g + max(1, g // 2) < free), default=0)


def group_steps(target: Target, tile: RegisterTile, steps: int) -> int:
    """Neighbouring steps of the reduction, of so many, whose weights come in one group."""
    most = _group_registers(target, tile) // tile.columns
    return max(s for s in range(1, most + 1) if steps % s == 0)


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_ops.conv2d``; None for any other."""
    if not target.loads_register_groups:
        return None
    anchored = find_anchored(sch, "conv2d_integer")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    lanes = 2 * target.vector.lanes()
    dot = Dot("edgecc.rvv_vwmacc", lanes, instructions=1, accumulators=2)
    space = Space.of(sch, target, anchored, dot, WideningProblem)
    dimension, neighbours = _grouped(sch, anchored.anchor)
    tiling = WideningProblem(**vars(space.tiling) | {"neighbours": neighbours})
    space = replace(space, tiling=tiling)
    decision = choose(sch, space.default(), space.decisions())
    _tile(sch, target, anchored, decision, dimension, neighbours)
    return {
        "template": "conv2d_integer",
        "decision": str(decision),
        "intrinsic": "rvv_vwmacc",
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
    steps = group_steps(target, tile, neighbours)
    outer = _reduce(sch, anchored.anchor, tile, dimension, (neighbours, steps), grouped)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    rows = [] if one_row else [row]
    spread(sch, [n, row_block, oc_outer, *rows], macs, parallel_grain(target))
    sch.decompose_reduction(anchored.anchor, outer)


def _reduce(
    sch: s_tir.Schedule,
    anchor: Block,
    tile: RegisterTile,
    dimension: int,
    extents: tuple[int, int],
    grouped: bool,
) -> Loop:
    """Order the anchor's loops and load its weights; returns the outermost loop.

    Args:
        dimension: of the weights, the innermost of the reduction.
        extents: of its neighbours and of those whose weights come at once.
        grouped: weights lie in the order of their use.
    """
    neighbours, steps = extents
    *_, c, _h, w, k, channel, kh, kw, inner = sch.get_loops(anchor)
    outer, depth = ([kh, kw], channel) if dimension == 1 else ([channel, kh], kw)
    scalars = tile.rows * steps
    most = max(1, min(UNROLLED_MACS // (scalars * tile.columns), MAX_SCALARS // scalars))
    unrolled = max(u for u in divisors(neighbours // steps) if u <= most)
    split = [None, neighbours // steps // unrolled, unrolled, steps]
    blocks, rounds, round_, step = sch.split(depth, split)
    sch.reorder(*outer, blocks, rounds, round_, step, inner, w, c, k)
    weights = sch.cache_read(anchor, 1, "local")
    sch.compute_at(weights, round_, preserve_unit_loops=True)
    *_, steps_, columns, lanes, unit = sch.get_loops(weights)
    sch.vectorize(sch.fuse(steps_, columns, lanes, unit) if grouped else sch.fuse(lanes, unit))
    for loop in (round_, step, w, c, inner):
        sch.unroll(loop)
    sch.vectorize(k)
    return outer[0]
