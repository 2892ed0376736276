"""The products of Winograd's convolution of bytes: int16 by int16, added in int32.

RVV's ``vwmacc`` takes a register of weights times one input in a general register and adds it to
two registers of sums; one load brings the weights of several columns and steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.target import Target
from schedules.blocks import Block, Loop, Schedule, extent
from schedules.tiles import MAX_ROWS, RegisterTile, divisors, parts
from schedules.winograd_space import Problem

# Registers of the largest group of weights that one load of RVV fills.
MAX_GROUP = 8
# Instructions that bring such a group: load, address, and two changes of the vector type.
GROUP_COST = 4
# Of loops and addresses, for each step of the reduction.
LOOP_COST = 0.5
# Multiply-adds, and scalars, of one round of the loop that is worth unrolling further.
UNROLLED_MACS = 192
MAX_SCALARS = 80


@dataclass(frozen=True)
class IntegerProblem(Problem):
    """Operands of 16 bits."""

    @property
    def operand_bytes(self) -> int:
        return 2

    def tiling(self, rows: int, even_columns: bool) -> IntegerTiles:
        return IntegerTiles(self.tiles(rows), self.out_vectors, self.in_channels)

    def best_tiles(self, target: Target, rows: int) -> list[RegisterTile]:
        tiling = self.tiling(rows, even_columns=True)
        return [min(tiling.tiles(target), key=lambda tile: tiling.cycles(target, tile))]


@dataclass(frozen=True)
class IntegerTiles:
    """Register tiles of the product at one point.

    Args:
        rows: tiles of a block.
        columns: blocks of output channels.
        depth: input channels.
    """

    rows: int
    columns: int
    depth: int

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles whose sums, weights and inputs fit in the registers."""
        for columns in divisors(self.columns):
            for rows in range(1, min(self.rows, MAX_ROWS) + 1):
                tile = RegisterTile(rows, columns)
                if 2 * rows * columns + max(columns, MAX_GROUP // 2) > target.vector.registers:
                    break
                yield tile

    def cycles(self, target: Target, tile: RegisterTile) -> float:
        """Instructions of one step of the reduction of all tiles."""
        column_tiles = math.ceil(self.columns / tile.columns)
        return sum(
            row_tiles * column_tiles * self._step(target, rows, tile)
            for rows, row_tiles in parts(target, self.rows, tile.rows)
        )

    def _step(self, target: Target, rows: int, tile: RegisterTile) -> float:
        loads = rows + GROUP_COST / group_steps(target, tile, self.depth)
        return rows * tile.columns + loads + LOOP_COST


def group_steps(target: Target, tile: RegisterTile, steps: int) -> int:
    """Neighbouring steps of the reduction, of so many, whose weights come in one group."""
    free = target.vector.registers - 2 * tile.rows * tile.columns
    group = max(g for g in (1, 2, 4, MAX_GROUP) if g == 1 or g <= free)
    return max(s for s in divisors(steps) if s * tile.columns <= max(group, tile.columns))


def tile_products(
    sch: Schedule,
    target: Target,
    products: Block,
    tile: RegisterTile,
    loops: list[Loop],
    in_order: bool,
) -> Loop:
    """Order the loops of the products and load weights in groups; returns the outermost reduction.

    Args:
        loops: row and column of the register tile, lane, outer and inner input channels.
        in_order: weights lie in the order of their use.
    """
    row, column, lane, outer, inner = loops
    depth = extent(sch, inner)
    steps = group_steps(target, tile, depth)
    scalars = tile.rows * steps
    most = max(1, min(UNROLLED_MACS // (scalars * tile.columns), MAX_SCALARS // scalars))
    if extent(sch, outer) == 1:
        # Without a loop around them LLVM would keep the weights of all channels, on the stack.
        most = max(1, min(most, depth // steps // 2))
    unrolled = max(u for u in divisors(depth // steps) if u <= most)
    rounds, round_, step = sch.split(inner, [None, unrolled, steps])
    sch.reorder(outer, rounds, round_, step, row, column, lane)
    weights = sch.cache_read(products, 1, "local")
    sch.compute_at(weights, round_, preserve_unit_loops=True)
    *_, steps_, columns, lanes = sch.get_loops(weights)
    sch.vectorize(sch.fuse(steps_, columns, lanes) if in_order else lanes)
    for loop in (round_, step, column, row):
        sch.unroll(loop)
    sch.vectorize(lane)
    return outer
