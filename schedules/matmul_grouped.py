"""Product of few rows with weights that are stored in groups along the reduction.

parallel batch, column_tile
  total[rows][columns] = 0
  for group:
    sum[rows][columns] = 0
    for word:
      for part, column:                        (unrolled)
        w = float(words[column] & mask[part])
        sum[r][column] += broadcast(a[r][part]) * w
    total += (sum - offset) * scale
  epilogue over the tile

Weights are read once and take most of the time; the rows are in L1. Each column of a tile is a
stream of its own: four are prefetched better than one of all columns together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir

from compiler.passes.grouped_ops import KIND, OFFSETS, PARTIAL, ROWS, TILE, WORD
from compiler.target import Target
from schedules.blocks import (
    Block,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    schedule_stage,
)
from schedules.choices import Chooser
from schedules.matmul import share_columns
from schedules.tiles import divisors

# Columns of a tile that a tuner looks at.
_MOST_COLUMNS = 8
# Bytes of a column whose products are written out.
_UNROLLED_STEPS = 8


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        columns: vectors of columns of a tile.
    """

    columns: int

    def __str__(self) -> str:
        return f"columns {self.columns}"


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``grouped_ops.matmul``; None for any other."""
    anchored = find_anchored(sch, KIND, reductions=(PARTIAL, OFFSETS))
    if anchored is None:
        return None
    anchor = anchored.anchor
    *_, rows, blocks, _, _ = sch.get_loops(anchor)
    loops = sch.get_loops(anchored.output)
    if len(loops) < 2 or extent(sch, loops[-2]) != extent(sch, rows):
        return None
    stages = {sch.get(b).name_hint: b for b in anchored.stages}
    partial = stages.pop(PARTIAL)
    for stage in stages.values():
        _schedule_stage(sch, stage)
    candidates = [d for d in divisors(extent(sch, blocks)) if d <= _MOST_COLUMNS]
    default = Decision(_columns(target, extent(sch, rows), extent(sch, blocks)))
    decision = choose(sch, default, map(Decision, candidates))
    _tile(sch, target, anchored.output, anchor, partial, decision.columns)
    return {"template": "matmul_grouped", "decision": str(decision)}


def _schedule_stage(sch: s_tir.Schedule, stage: Block) -> None:
    """Sums of rows stay plain loops: a row is a few thousand numbers."""
    if sch.get(stage).name_hint == ROWS:
        outer, inner = sch.split(sch.get_loops(stage)[-1], [None, WORD])
        sch.vectorize(inner)
        partition_tail(sch, outer)
    elif sch.get(stage).name_hint != OFFSETS:
        schedule_stage(sch, stage)


def _columns(target: Target, rows: int, blocks: int) -> int:
    """Vectors of columns of a tile."""
    room = (target.vector.registers - 4) // (rows + 1)
    return max(d for d in divisors(blocks) if d <= max(1, min(TILE, room)))


def _tile(
    sch: s_tir.Schedule, target: Target, output: Block, anchor: Block, partial: Block, columns: int
) -> None:
    macs = iterations(sch, partial)
    lanes = extent(sch, sch.get_loops(anchor)[-2])
    *batch, row, column = sch.get_loops(output)
    ragged = extent(sch, column) % (columns * lanes) != 0
    tile_outer, tile_inner, lane = sch.split(column, [None, columns, lanes])
    sch.reorder(*batch, tile_outer, row, tile_inner, lane)
    sch.compute_at(anchor, tile_outer, preserve_unit_loops=True)
    *_, r, c, k, g = sch.get_loops(anchor)
    sch.reorder(g, r, c, k)
    sch.compute_at(partial, g, preserve_unit_loops=True)
    *_, pr, pc, pg, pk, step, part = sch.get_loops(partial)
    if extent(sch, part) == 1:
        step, part = sch.split(step, [None, math.gcd(extent(sch, step), _UNROLLED_STEPS)])
    sch.reorder(pg, step, part, pc, pr, pk)
    for loop in (part, pc, pr, r, c):
        sch.unroll(loop)
    for loop in (pk, k, lane):
        sch.vectorize(loop)
    sch.unroll(tile_inner)
    sch.unroll(row)
    if ragged:
        partition_tail(sch, tile_inner)
    share_columns(sch, target, batch, tile_outer, macs, ragged)
    sch.decompose_reduction(partial, step)
    sch.decompose_reduction(anchor, g)
