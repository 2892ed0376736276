"""Matrix product with packed columns: activations times weights, or times activations.

parallel batch, column_tile
  row_tile
    acc[rows][columns] = 0
    for k:
      acc[r][c] += broadcast(a[r][k]) * b[c][k][...]      (unrolled, one FMA each)
    epilogue over the tile
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import s_tir

from compiler.passes.integer_ops import STORED_WEIGHTS
from compiler.target import Target
from schedules.blocks import (
    Anchored,
    Block,
    Loop,
    extent,
    find_anchored,
    iterations,
    load_rows_as_vectors,
    partition_tail,
    result_bits,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.constants import is_constant
from schedules.dot_tiles import nearby_tiles
from schedules.tiles import (
    FMAS_TAKE_LANES,
    RegisterTile,
    TileProblem,
    choose_register_tile,
    divisors,
    even_block,
    parallel_grain,
    split_for_cores,
    worth_sharing,
)
from schedules.weight_groups import load_groups, rearrange_weights

# Rows for which weights that are stored as bytes are converted again and again.
MOST_ROWS_OF_BYTES = 8


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        tile: accumulators kept in registers.
        block: row tiles of a task.
    """

    tile: RegisterTile
    block: int

    def __str__(self) -> str:
        return f"tile {self.tile.rows}x{self.tile.columns}, block {self.block}"


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.matmul``; None for any other."""
    anchored = find_anchored(sch, "matmul")
    if anchored is None:
        return None
    *_, rows, blocks, lanes, depth = sch.get_loops(anchored.anchor)
    loops = sch.get_loops(anchored.output)
    if len(loops) < 2 or extent(sch, loops[-2]) != extent(sch, rows):
        return None
    stored = _stored_weights(sch, anchored, extent(sch, rows))
    for stage in anchored.stages:
        if stage is not stored:
            schedule_stage(sch, stage)
    problem = TileProblem(
        extent(sch, rows),
        extent(sch, blocks),
        extent(sch, lanes),
        extent(sch, depth),
        grouped_steps=extent(sch, depth) if target.loads_register_groups else 0,
        constant=is_constant(sch, anchored.anchor, 1),
        splits_columns=True,
        kept_steps=_kept_steps(target, extent(sch, depth)),
        element_bits=result_bits(sch, anchored.anchor),
    )
    batch = math.prod(extent(sch, loop) for loop in loops[:-2])
    elements = extent(sch, loops[-1])
    default = _default(target, problem, elements, batch)
    decision = choose(sch, default, _decisions(target, problem, elements))
    _tile(sch, target, anchored, decision, problem, stored)
    return {"template": "matmul", "decision": str(decision)}


def _kept_steps(target: Target, depth: int) -> int:
    """Steps whose weights should stay in registers for all rows.

    LLVM unrolls two rounds of lanes whole, so that weights no longer change from tile to tile;
    those beyond the registers come from the stack. On 32-bit ARM that takes two instructions each,
    as vector loads know no offsets.
    """
    lanes = target.vector.lanes()
    return depth if target.arch == "arm" and lanes < depth <= 2 * lanes else 0


def _stored_weights(sch: s_tir.Schedule, anchored: Anchored, rows: int) -> Block | None:
    """The block that makes floats of bytes, where that is worth doing once for all rows."""
    found = [b for b in anchored.stages if sch.get(b).name_hint == STORED_WEIGHTS]
    if not found:
        return None
    (stored,) = found
    if rows > MOST_ROWS_OF_BYTES:
        return stored
    anchored.stages.remove(stored)
    sch.compute_inline(stored)
    return None


def _default(target: Target, problem: TileProblem, elements: int, batch: int) -> Decision:
    """The register tile with the least cycles, or one that lets all cores work."""
    tile = choose_register_tile(target, problem)
    block = _choose_block(target, problem, tile, elements, batch)
    row_tiles = math.ceil(problem.rows / tile.rows)
    if problem.grouped_steps and block < row_tiles:
        # A guard for the last rows cannot be split off inside blocks.
        even = choose_register_tile(target, replace(problem, even_rows=True))
        affordable = worth_sharing(target, batch * math.ceil(problem.columns / tile.columns))
        if problem.cycles(target, even) > affordable * problem.cycles(target, tile):
            return Decision(tile, row_tiles)
        block = max(1, block * tile.rows // even.rows)
        return Decision(even, even_block(problem.rows // even.rows, block))
    return Decision(tile, block)


def _choose_block(
    target: Target, problem: TileProblem, tile: RegisterTile, elements: int, batch: int
) -> int:
    row_tiles = math.ceil(problem.rows / tile.rows)
    if _is_ragged(problem, tile, elements):
        return row_tiles
    tasks = batch * elements // (tile.columns * problem.width)
    return split_for_cores(target, row_tiles, row_tiles, tasks)


def _decisions(target: Target, problem: TileProblem, elements: int) -> Iterator[Decision]:
    """The better half of the register tiles, with all blocks."""
    for tile in nearby_tiles(target, problem):
        row_tiles = math.ceil(problem.rows / tile.rows)
        blocks = [row_tiles] if _is_ragged(problem, tile, elements) else divisors(row_tiles)
        for block in blocks:
            yield Decision(tile, block)


def _is_ragged(problem: TileProblem, tile: RegisterTile, elements: int) -> bool:
    """Whether the last tile of columns is not whole."""
    return elements % (tile.columns * problem.width) != 0


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    decision: Decision,
    problem: TileProblem,
    stored: Block | None,
) -> None:
    tile, lanes = decision.tile, problem.width
    group = problem.group(tile)
    if group and group.columns > 1:
        rearrange_weights(sch, anchored.anchor, 1, tile, group)
    macs = iterations(sch, anchored.anchor)
    *batch, row, column = sch.get_loops(anchored.output)
    ragged = extent(sch, column) % (tile.columns * lanes) != 0
    row_outer, row_inner = sch.split(row, [None, tile.rows])
    tile_outer, tile_inner, lane = sch.split(column, [None, tile.columns, lanes])
    if not ragged:
        row_block, row_outer = sch.split(row_outer, [None, decision.block])
        batch.append(row_block)
    sch.reorder(*batch, tile_outer, row_outer, row_inner, tile_inner, lane)
    sch.compute_at(anchored.anchor, row_outer, preserve_unit_loops=True)
    if stored is not None:
        sch.compute_at(stored, tile_outer, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(stored)[-1])
    partition_tail(sch, row_outer)
    if ragged:
        partition_tail(sch, tile_inner)  # else the last one's guard makes scalars of all vectors
    *_, r, c, k, depth = sch.get_loops(anchored.anchor)
    if target.arch in FMAS_TAKE_LANES and extent(sch, depth) % lanes == 0:
        depth, step = sch.split(depth, [None, lanes])
        sch.reorder(depth, step, r, c, k)
        load_rows_as_vectors(sch, anchored.anchor, depth, step)
        sch.unroll(c)
    elif group:
        sch.reorder(depth, r, c, k)
        depth = load_groups(sch, anchored.anchor, group, [depth], c, [r, k])
    else:
        sch.reorder(depth, r, c, k)
        sch.unroll(c)
    sch.vectorize(k)
    sch.unroll(r)
    sch.vectorize(lane)
    sch.unroll(tile_inner)
    sch.unroll(row_inner)
    share_columns(sch, target, batch, tile_outer, macs, ragged)
    sch.decompose_reduction(anchored.anchor, depth)


def share_columns(
    sch: s_tir.Schedule, target: Target, batch: list, tile_outer: Loop, macs: int, ragged: bool
) -> None:
    """Share the column tiles among threads; split a ragged last one off, or share whole matrices.

    Args:
        batch: loops around them.
    """
    grain = parallel_grain(target)
    if not ragged:
        spread(sch, [*batch, tile_outer], macs, grain)
    elif math.prod(extent(sch, loop) for loop in batch) > 1:
        partition_tail(sch, tile_outer)
        spread(sch, batch, macs, grain)
    else:
        partition_tail(sch, spread(sch, [*batch, tile_outer], macs, grain))
