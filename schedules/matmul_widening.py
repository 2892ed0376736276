"""Product of bytes with packed constant columns by widening multiply-adds (RVV's vwmacc).

parallel batch, column_tile
  row_tile
    acc[rows][columns] = 0
    for k:
      acc[r][c] += a[r][k] * w[c][k]                  (in groups: ``widening``)
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
from schedules.constants import rearrange_constant
from schedules.dot_tiles import nearby_tiles
from schedules.matmul import Decision, share_columns
from schedules.tiles import divisors, even_block, split_for_cores
from schedules.widening import (
    INTRINSIC,
    WideningProblem,
    group_steps,
    reduce_in_groups,
    widening_dot,
)


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_ops.matmul``; None for any other."""
    if not target.loads_register_groups:
        return None
    anchored = find_anchored(sch, "matmul_integer")
    if anchored is None:
        return None
    *_, rows, blocks, lanes, steps, group = sch.get_loops(anchored.anchor)
    loops = sch.get_loops(anchored.output)
    if len(loops) < 2 or extent(sch, loops[-2]) != extent(sch, rows):
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    problem = WideningProblem(
        widening_dot(target),
        rows=extent(sch, rows),
        columns=extent(sch, blocks),
        lanes=extent(sch, lanes),
        steps=extent(sch, steps),
        step=extent(sch, group),
        neighbours=extent(sch, steps),
        splits_columns=True,
    )
    elements = extent(sch, loops[-1])
    batch = math.prod(extent(sch, loop) for loop in loops[:-2])
    default = _default(target, problem, elements, batch)
    decision = choose(sch, default, _decisions(target, problem, elements))
    _tile(sch, target, anchored, problem, decision)
    return {
        "template": "matmul_integer",
        "decision": str(decision),
        "intrinsic": INTRINSIC,
    }


def _default(target: Target, problem: WideningProblem, elements: int, batch: int) -> Decision:
    """The register tile with the fewest instructions, or one that lets all cores work."""
    tile = problem.best(target)
    row_tiles = math.ceil(problem.rows / tile.rows)
    tasks = batch * math.ceil(problem.columns / tile.columns)
    block = split_for_cores(target, row_tiles, row_tiles, tasks)
    if block == row_tiles or _is_ragged(problem, tile.columns, elements):
        return Decision(tile, row_tiles)
    if problem.rows % tile.rows:
        # A guard for the last rows cannot be split off inside blocks.
        even = problem.best(target, even_rows=True)
        ragged = _is_ragged(problem, even.columns, elements)
        if ragged or problem.is_much_worse(target, even, tile, batch):
            return Decision(tile, row_tiles)
        block, tile = block * tile.rows // even.rows, even
        row_tiles = problem.rows // even.rows
    return Decision(tile, even_block(row_tiles, max(1, block)))


def _decisions(target: Target, problem: WideningProblem, elements: int) -> Iterator[Decision]:
    """The better half of the register tiles, with all blocks."""
    for tile in nearby_tiles(target, problem):
        row_tiles = math.ceil(problem.rows / tile.rows)
        whole = problem.rows % tile.rows or _is_ragged(problem, tile.columns, elements)
        for block in [row_tiles] if whole else divisors(row_tiles):
            yield Decision(tile, block)


def _is_ragged(problem: WideningProblem, columns: int, elements: int) -> bool:
    """Whether the last tile of columns is not whole."""
    return elements % (columns * problem.lanes) != 0


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    problem: WideningProblem,
    decision: Decision,
) -> None:
    macs, tile = iterations(sch, anchored.anchor), decision.tile
    # [blocks, K, c, 1] -> [blocks / columns, K, columns, c, 1]
    grouped = rearrange_constant(sch, anchored.anchor, 1, {0: [tile.columns]}, [0, 2, 1, 3, 4])
    *batch, row, column = sch.get_loops(anchored.output)
    ragged = extent(sch, column) % (tile.columns * problem.lanes) != 0
    row_outer, row_inner = sch.split(row, [None, tile.rows])
    tile_outer, tile_inner, lane = sch.split(column, [None, tile.columns, problem.lanes])
    if not ragged:
        row_block, row_outer = sch.split(row_outer, [None, decision.block])
        batch.append(row_block)
    sch.reorder(*batch, tile_outer, row_outer, row_inner, tile_inner, lane)
    sch.compute_at(anchored.anchor, row_outer, preserve_unit_loops=True)
    partition_tail(sch, row_outer)
    if ragged:
        partition_tail(sch, tile_inner)  # else the last one's guard makes scalars of all vectors
    *_, r, c, k, step, inner = sch.get_loops(anchored.anchor)
    extents = problem.neighbours, group_steps(target, tile, problem.neighbours)
    depth = reduce_in_groups(sch, anchored.anchor, tile, [r, c, k], [step, inner], extents, grouped)
    sch.vectorize(lane)
    sch.unroll(tile_inner)
    sch.unroll(row_inner)
    share_columns(sch, target, batch, tile_outer, macs, ragged)
    sch.decompose_reduction(anchored.anchor, depth)
