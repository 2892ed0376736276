"""The register tile of integer sums of products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.target import Target
from schedules.choices import nearby
from schedules.intrinsics.dot import Dot
from schedules.tiles import MAX_COLUMNS, MAX_ROWS, RegisterTile, TileProblem, parts

# Register tiles that a tuner looks at: so many, and none with this many times the best's cycles.
MAX_TILES = 16
TILE_SLACK = 1.5

# Of a load beside arithmetic, in instructions.
LOAD_COST = 0.35


@dataclass(frozen=True)
class DotProblem:
    """What a register tile has to cover: rows x columns of sums.

    Args:
        dot: the intrinsic.
        rows: pixels of one row of the result, or matrix rows.
        columns: blocks of output channels.
        lanes: output channels of a block, a multiple of the intrinsic's.
        steps: of the reduction, one use of the intrinsic each.
        step: products of one step for each sum.
        groups: of channels; a tile of two groups would share no inputs.
    """

    dot: Dot
    rows: int
    columns: int
    lanes: int
    steps: int
    step: int
    groups: int = 1

    @property
    def weight_bytes(self) -> int:
        """Weights of one column."""
        return self.lanes * self.steps * self.step * self.dot.operand_bytes

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles whose sums stay in registers beside weights and an input."""
        for columns in range(1, min(self.columns, MAX_COLUMNS) + 1):
            if self.groups > 1 and self.columns // self.groups % columns:
                continue
            for rows in range(1, min(self.rows, MAX_ROWS) + 1):
                tile = RegisterTile(rows, columns)
                if self._registers(tile) > target.vector.registers:
                    break
                yield tile

    def best(self, target: Target, even_rows: bool = False) -> RegisterTile:
        """The tile with the least estimated time.

        Args:
            even_rows: take only tiles that divide the rows.
        """
        tiles = [t for t in self.tiles(target) if not even_rows or self.rows % t.rows == 0]
        return min(tiles, key=lambda tile: self.cycles(target, tile), default=RegisterTile(1, 1))

    def is_much_worse(
        self, target: Target, even: RegisterTile, tile: RegisterTile, batch: int
    ) -> bool:
        """Whether a tile that divides the rows costs more than blocks of rows gain."""
        return even.rows * even.columns * 2 < tile.rows * tile.columns

    def cycles(self, target: Target, tile: RegisterTile) -> float:
        """Estimated cycles of one step of the reduction of all tiles."""
        return sum(
            row_tiles * column_tiles * self._step_cycles(target, rows, columns)
            for rows, row_tiles in parts(target, self.rows, tile.rows)
            for columns, column_tiles in parts(target, self.columns, tile.columns)
        )

    def _uses(self, columns: int) -> int:
        """Uses of the intrinsic for one row."""
        return columns * self.lanes // self.dot.lanes

    def _registers(self, tile: RegisterTile) -> int:
        uses = self._uses(tile.columns)
        return (tile.rows * self.dot.accumulators + 1) * uses + 1 + self.dot.temporaries

    def _step_cycles(self, target: Target, rows: int, columns: int) -> float:
        uses = self._uses(columns)
        arithmetic = rows * uses * self.dot.instructions
        loads = rows * self.dot.input_loads + uses * self.dot.weight_loads
        # A sum waits for the step before.
        chain = target.vector.fma_latency * target.vector.fma_per_cycle
        return max(arithmetic, chain) + LOAD_COST * loads


def nearby_tiles(target: Target, problem: TileProblem | DotProblem) -> Iterator[RegisterTile]:
    """The better half of a problem's register tiles, the best first."""
    tiles = problem.tiles(target)
    return nearby(lambda tile: problem.cycles(target, tile), tiles, MAX_TILES, TILE_SLACK)
