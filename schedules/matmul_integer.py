"""Product of bytes with packed constant columns: sums in int32 registers.

parallel batch, column_tile
  row_tile
    acc[rows][columns] = 0
    for step:
      acc[r][c] = dot(acc[r][c], a[r], w[c])      (unrolled)
    epilogue over the tile
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import (
    Anchored,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    schedule_stage,
)
from schedules.choices import Chooser
from schedules.dot_tiles import DotProblem, nearby_tiles
from schedules.dots import find_dot, order_dots, order_parts, sum_in_parts, use_intrinsic
from schedules.intrinsics.dot import Dot
from schedules.matmul import Decision, share_columns
from schedules.tiles import divisors, split_for_cores


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_ops.matmul``; None for any other."""
    anchored = find_anchored(sch, "matmul_integer")
    if anchored is None:
        return None
    dot = find_dot(sch, target, anchored.anchor)
    *_, rows, blocks, lanes, steps, group = sch.get_loops(anchored.anchor)
    loops = sch.get_loops(anchored.output)
    if dot is None or len(loops) < 2 or extent(sch, loops[-2]) != extent(sch, rows):
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    problem = DotProblem(dot, *(extent(sch, loop) for loop in (rows, blocks, lanes, steps, group)))
    elements = extent(sch, loops[-1])
    batch = math.prod(extent(sch, loop) for loop in loops[:-2])
    default = _default(target, problem, elements, batch)
    decision = choose(sch, default, _decisions(target, problem, elements))
    _tile(sch, target, anchored, dot, decision)
    return {
        "template": "matmul_integer",
        "decision": str(decision),
        "intrinsic": dot.name.removeprefix("edgecc."),
    }


def _default(target: Target, problem: DotProblem, elements: int, batch: int) -> Decision:
    tile = problem.best(target)
    row_tiles = math.ceil(problem.rows / tile.rows)
    if elements % (tile.columns * problem.lanes):
        return Decision(tile, row_tiles)
    tasks = batch * elements // (tile.columns * problem.lanes)
    return Decision(tile, split_for_cores(target, row_tiles, row_tiles, tasks))


def _decisions(target: Target, problem: DotProblem, elements: int) -> Iterator[Decision]:
    """The better half of the register tiles, with all blocks."""
    for tile in nearby_tiles(target, problem):
        row_tiles = math.ceil(problem.rows / tile.rows)
        ragged = elements % (tile.columns * problem.lanes)
        for block in [row_tiles] if ragged else divisors(row_tiles):
            yield Decision(tile, block)


def _tile(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, dot: Dot, decision: Decision
) -> None:
    macs = iterations(sch, anchored.anchor)
    lanes = extent(sch, sch.get_loops(anchored.anchor)[-3])
    *batch, row, column = sch.get_loops(anchored.output)
    ragged = extent(sch, column) % (decision.tile.columns * lanes) != 0
    row_outer, row_inner = sch.split(row, [None, decision.tile.rows])
    tile_outer, tile_inner, lane = sch.split(column, [None, decision.tile.columns, lanes])
    if not ragged:
        row_block, row_outer = sch.split(row_outer, [None, decision.block])
        batch.append(row_block)
    sch.reorder(*batch, tile_outer, row_outer, row_inner, tile_inner, lane)
    parts = sum_in_parts(sch, anchored.anchor, row_outer) if dot.collect else None
    if parts is None:
        sch.compute_at(anchored.anchor, row_outer, preserve_unit_loops=True)
    partition_tail(sch, row_outer)
    if parts is None:
        *_, r, c, k, step, group = sch.get_loops(anchored.anchor)
        order_dots(sch, dot, [step], [r, c, k], group)
    else:
        step = order_parts(sch, parts)
    sch.vectorize(lane)
    sch.unroll(tile_inner)
    sch.unroll(row_inner)
    share_columns(sch, target, batch, tile_outer, macs, ragged)
    if parts is None:
        use_intrinsic(sch, anchored.anchor, dot.name, step)
    else:
        use_intrinsic(sch, anchored.anchor, dot.collect, parts.outermost)
        use_intrinsic(sch, parts.block, dot.name, step, loops=3)
