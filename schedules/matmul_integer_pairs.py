"""Product of bytes, two rows by two columns an instruction (AArch64's i8mm), or of bfloat16.

    parallel pair of rows
      pairs = both rows' operands of each step together
    parallel batch, block of rows, column_tile
      row_tile
        acc[pairs of rows][pairs of columns] = 0
        for step / 4:
          acc[r][c] = mmla(acc[r][c], pairs[r].step, w[2c, 2c + 1])      (unrolled)
        epilogue over the tile

Operands of rows are put together once for all columns. Sums lie as 2 x 2 in a register, until the
epilogue takes them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.passes.integer_pairs import MATMUL, PAIRS
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
from schedules.choices import Chooser, nearby
from schedules.constants import rearrange_constant
from schedules.dot_tiles import LOAD_COST, MAX_TILES, TILE_SLACK
from schedules.dots import multiply_pairs
from schedules.intrinsics.neon_mmla import PAIR, VECTORS, mmla
from schedules.matmul import Decision, share_columns
from schedules.tiles import (
    MAX_ROWS,
    MOST_TOGETHER,
    RegisterTile,
    divisors,
    parts,
    split_for_cores,
)

# Steps of the reduction in one round of its loop.
UNROLLED_STEPS = 4


@dataclass(frozen=True)
class Problem:
    """What a register tile has to cover, in pairs of rows and pairs of columns.

    Args:
        rows, columns: of the result; columns in whole blocks.
        block: columns whose weights lie together; tiles divide them.
        elements: single columns.
    """

    rows: int
    columns: int
    block: int
    elements: int

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles whose sums stay in registers beside operands of rows and four of columns."""
        for columns in [self.block] if self.ragged else divisors(self.block)[1:]:
            for rows in range(1, min(self.rows, MAX_ROWS) + 1):
                needed = rows * (columns + 1) + min(MOST_TOGETHER, columns)
                if needed > target.vector.registers:
                    break
                yield RegisterTile(rows, columns)

    @property
    def ragged(self) -> bool:
        """Whether the last block of columns is not whole: tiles are blocks then."""
        return self.elements % (self.block * PAIR) != 0

    def cycles(self, target: Target, tile: RegisterTile) -> float:
        """Estimated cycles of one step of the reduction of all tiles."""
        columns = math.ceil(self.columns / tile.columns)
        weights = tile.columns / (MOST_TOGETHER if target.groups_loads else 1)
        chain = target.vector.fma_latency * target.vector.fma_per_cycle
        return columns * sum(
            count * (max(rows * tile.columns, chain) + LOAD_COST * (rows + weights))
            for rows, count in parts(target, self.rows, tile.rows)
        )


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_pairs.matmul``; None for any other."""
    anchored = find_anchored(sch, MATMUL)
    if anchored is None:
        return None
    *_, pairs, blocks, columns, _, _, _, _ = sch.get_loops(anchored.anchor)
    loops = sch.get_loops(anchored.output)
    rows = extent(sch, loops[-2]) if len(loops) > 1 else 0
    if math.ceil(rows / PAIR) != extent(sch, pairs):
        return None
    for stage in anchored.stages:
        if sch.get(stage).name_hint == PAIRS:
            _join_rows(sch, stage)
        else:
            schedule_stage(sch, stage)
    block, elements = extent(sch, columns), extent(sch, loops[-1])
    problem = Problem(extent(sch, pairs), extent(sch, blocks) * block, block, elements)
    batch = math.prod(extent(sch, loop) for loop in loops[:-2])
    decision = choose(sch, _default(target, problem, batch), _decisions(target, problem))
    intrinsic = mmla(str(sch.get(anchored.anchor).reads[0].source.ty.dtype), together=True)
    _tile(sch, target, anchored, decision, block, intrinsic)
    return {
        "template": "matmul_integer",
        "decision": f"{decision} of pairs",
        "intrinsic": intrinsic.removeprefix("edgecc.").removesuffix(VECTORS),
    }


def _default(target: Target, problem: Problem, batch: int) -> Decision:
    tile = min(problem.tiles(target), key=lambda tile: problem.cycles(target, tile))
    row_tiles = math.ceil(problem.rows / tile.rows)
    if problem.ragged:
        return Decision(tile, row_tiles)
    tasks = batch * problem.elements // (tile.columns * PAIR)
    return Decision(tile, split_for_cores(target, row_tiles, row_tiles, tasks))


def _decisions(target: Target, problem: Problem) -> Iterator[Decision]:
    """The better half of the register tiles, with all blocks."""
    tiles = nearby(
        lambda tile: problem.cycles(target, tile), problem.tiles(target), MAX_TILES, TILE_SLACK
    )
    for tile in tiles:
        row_tiles = math.ceil(problem.rows / tile.rows)
        for block in [row_tiles] if problem.ragged else divisors(row_tiles):
            yield Decision(tile, block)


def _join_rows(sch: s_tir.Schedule, pairs: Block) -> None:
    """[..., pair, step, 2, group]: pairs of rows in parallel, a step's operands as two vectors."""
    work = iterations(sch, pairs)
    *outer, _, side, lane = sch.get_loops(pairs)
    sch.vectorize(lane)
    sch.unroll(side)
    spread(sch, outer, work)


def _lay_tiles_together(sch: s_tir.Schedule, rows: int) -> None:
    """[..., pair, step, 2, group] in memory as [..., tile, step, pair of the tile, 2, group]."""
    sch.transform_layout(
        sch.get_sblock(PAIRS),
        ("write", 0),
        lambda *i: [*i[:-4], i[-4] // rows, i[-3], i[-4] % rows, *i[-2:]],
        assume_injective_transform=True,  # nothing reads the pairs that the last tile has not
    )


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    decision: Decision,
    block: int,
    intrinsic: str,
) -> None:
    tile, anchor = decision.tile, anchored.anchor
    width = tile.columns * PAIR
    _lay_tiles_together(sch, tile.rows)
    if tile.columns < block:
        rearrange_constant(sch, anchor, 1, {2: [width]}, [0, 2, 1, 3, 4])
    macs = iterations(sch, anchor)
    *batch, row, column = sch.get_loops(anchored.output)
    ragged = extent(sch, column) % width != 0
    row_outer, row_inner = sch.split(row, [None, tile.rows * PAIR])
    tile_outer, lane = sch.split(column, [None, width])
    if not ragged:
        row_block, row_outer = sch.split(row_outer, [None, decision.block])
        batch.append(row_block)
    sch.reorder(*batch, tile_outer, row_outer, row_inner, lane)
    sch.compute_at(anchor, row_outer, preserve_unit_loops=True)
    partition_tail(sch, row_outer)
    *_, pair, _, channels, side, channel, step, group = sch.get_loops(anchor)
    steps, step = sch.split(step, [None, math.gcd(extent(sch, step), UNROLLED_STEPS)])
    sch.reorder(steps, step, channels, pair, side, channel, group)
    for loop in (step, channels, pair):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.unroll(row_inner)
    share_columns(sch, target, batch, tile_outer, macs, ragged)
    multiply_pairs(sch, anchor, steps, intrinsic)
