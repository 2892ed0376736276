"""What templates of widening multiply-adds share (RVV's vwmacc): int16 times a scalar, in int32.

A register of weights in int16 is added to two registers of sums. The weights of several steps and
columns come as bytes in one load, and code generation widens such a group at once
(``codegen/widening_products.py``):

    for k:
      group[steps][columns] = w[...]                  (one load)
      acc[r][c] += x[r][step] * group[step][c]        (unrolled)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import Block, Loop, extent
from schedules.dot_tiles import DotProblem
from schedules.intrinsics.dot import Dot
from schedules.tiles import MAX_ROWS, RegisterTile, divisors, parts, worth_sharing

INTRINSIC = "rvv_vwmacc"
# Registers of the largest group of widened weights; the bytes that they come from take half.
MAX_GROUP = 8
# Instructions that bring a group: load, address, widening, and two changes of the vector type.
GROUP_COST = 5
# Of loops and addresses, for each step of the reduction.
LOOP_COST = 0.75
# Multiply-adds, and scalars, of one round of the loop that is worth unrolling further.
UNROLLED_MACS = 192
MAX_SCALARS = 80


def widening_dot(target: Target) -> Dot:
    """One vwmacc.vx: two registers of sums."""
    lanes = 2 * target.vector.lanes()
    return Dot(f"edgecc.{INTRINSIC}", lanes, instructions=1, accumulators=2)


@dataclass(frozen=True)
class WideningProblem(DotProblem):
    """Tiles whose sums take two registers each and whose weights come in groups.

    Args:
        neighbours: steps of the reduction whose weights may come in one group.
        splits_columns: whether the last columns get code of their own where tiles do not divide;
            else a guard would break up the load of a group.
    """

    neighbours: int = 1
    splits_columns: bool = False

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles that leave registers for a group of weights."""
        for columns in range(1, min(self.columns, MAX_GROUP) + 1):
            if self.columns // self.groups % columns and not self.splits_columns:
                continue
            for rows in range(1, min(self.rows, MAX_ROWS) + 1):
                tile = RegisterTile(rows, columns)
                if _group_registers(target, tile) < columns:
                    break
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


def reduce_in_groups(
    sch: s_tir.Schedule,
    anchor: Block,
    tile: RegisterTile,
    loops: list[Loop],
    reduction: list[Loop],
    extents: tuple[int, int],
    grouped: bool,
) -> Loop:
    """Order the anchor's loops, unroll the tile and load its weights; returns the outermost loop.

    Args:
        loops: of rows, columns and lanes.
        reduction: its loops, of which the last is the instruction's and the last but one the one
            whose steps are grouped.
        extents: of that loop and of a group.
        grouped: weights lie in the order of their use.
    """
    neighbours, steps = extents
    rows, columns, lanes = loops
    *outer, depth, inner = reduction
    scalars = tile.rows * steps
    most = max(1, min(UNROLLED_MACS // (scalars * tile.columns), MAX_SCALARS // scalars))
    groups = neighbours // steps
    # Without any loop LLVM would widen all weights before a task's tiles, and spill them.
    if groups > 1 and math.prod(extent(sch, loop) for loop in (*outer, depth)) == neighbours:
        most = min(most, groups - 1)
    unrolled = max(u for u in divisors(groups) if u <= most)
    split = [None, groups // unrolled, unrolled, steps]
    blocks, rounds, round_, step = sch.split(depth, split)
    sch.reorder(*outer, blocks, rounds, round_, step, inner, rows, columns, lanes)
    weights = sch.cache_read(anchor, 1, "local")
    sch.compute_at(weights, round_, preserve_unit_loops=True)
    *_, steps_, columns_, lanes_, unit = sch.get_loops(weights)
    sch.vectorize(sch.fuse(steps_, columns_, lanes_, unit) if grouped else sch.fuse(lanes_, unit))
    for loop in (round_, step, rows, columns, inner):
        sch.unroll(loop)
    sch.vectorize(lanes)
    return outer[0] if outer else blocks
