"""What one may choose for Winograd's convolution, and what each choice costs by estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from compiler.target import Target
from schedules.choices import nearby
from schedules.tiles import (
    FMAS_TAKE_LANES,
    RegisterTile,
    TileProblem,
    choose_register_tile,
    divisors,
    pushed_out_of_l2,
)

# Sharing channels sends what one core has transformed to the others.
CROSSING = 1.1
# Idle cores weigh less than work: a library also runs on one thread.
IDLE_WEIGHT = 0.5
# Decisions that a tuner looks at: so many, and none with this many times the best's cycles.
MAX_DECISIONS = 512
SLACK = 1.5


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        tile: accumulators kept in registers: tiles x output vectors.
        rows: rows of tiles in a block.
        group: output vectors whose products are kept until they are transformed.
        by_block: the cores share the blocks; else the vectors of channels inside each block.
    """

    tile: RegisterTile
    rows: int
    group: int
    by_block: bool

    def __str__(self) -> str:
        shared = "blocks" if self.by_block else "channels"
        tile = f"tile {self.tile.rows}x{self.tile.columns}"
        return f"{tile}, {self.rows} rows, group {self.group}, shared by {shared}"


class Tiling(Protocol):
    """The register tiles of a product, as ``TileProblem`` has them."""

    def tiles(self, target: Target) -> Iterator[RegisterTile]: ...

    def cycles(self, target: Target, tile: RegisterTile) -> float: ...


@dataclass(frozen=True)
class Problem:
    """Extents of one convolution; channels in vectors on the output's side.

    Args:
        sum_bits: of an accumulator.
    """

    batch: int
    m: int
    tile_rows: int
    tile_columns: int
    in_channels: int
    out_vectors: int
    lanes: int
    sum_bits: int = 32

    @property
    def operand_bytes(self) -> int:
        """Of a transformed input or weight."""
        return self.sum_bits // 8

    @property
    def points(self) -> int:
        return (self.m + 2) ** 2

    def blocks(self, rows: int) -> int:
        """Blocks of so many rows of tiles."""
        return self.batch * self.tile_rows // rows

    def tiles(self, rows: int) -> int:
        """Tiles of a block of so many rows."""
        return rows * self.tile_columns

    def tiling(self, rows: int, even_columns: bool) -> Tiling:
        """The product at one point, for a block of so many rows."""
        return self._tiling(rows, even_columns)

    def best_tiles(self, target: Target, rows: int) -> list[RegisterTile]:
        """The register tiles worth a look without a search."""
        return [
            choose_register_tile(target, self._tiling(rows, even))
            for even in (True, target.arch in FMAS_TAKE_LANES)
        ]

    def _tiling(self, rows: int, even_columns: bool) -> TileProblem:
        return TileProblem(
            self.tiles(rows),
            self.out_vectors,
            self.lanes,
            self.in_channels,
            even_columns=even_columns,
            element_bits=self.sum_bits,
        )

    def input_bytes(self, rows: int) -> int:
        """Bytes of a block's transformed inputs."""
        return self.operand_bytes * self.points * self.tiles(rows) * self.in_channels

    def product_bytes(self, rows: int, vectors: int) -> int:
        """Bytes of a block's products for so many output vectors."""
        return self.sum_bits // 8 * self.points * self.tiles(rows) * vectors * self.lanes


def decide(target: Target, problem: Problem) -> Decision:
    """The block of rows, and the register tile for it, with the least estimated time."""
    candidates = _decisions(target, problem, lambda rows: problem.best_tiles(target, rows))
    return min(candidates, key=lambda decision: _cycles(target, problem, decision))


def promising_decisions(target: Target, problem: Problem) -> Iterator[Decision]:
    """What a tuner may choose, the cheapest by the estimate first."""

    def tiles(rows: int) -> Iterator[RegisterTile]:
        return problem.tiling(rows, target.arch in FMAS_TAKE_LANES).tiles(target)

    candidates = _decisions(target, problem, tiles)
    return nearby(lambda d: _cycles(target, problem, d), candidates, MAX_DECISIONS, SLACK)


def _decisions(
    target: Target, problem: Problem, tiles: Callable[[int], Iterable[RegisterTile]]
) -> Iterator[Decision]:
    """All decisions with the register tiles for each number of rows."""
    for rows in divisors(problem.tile_rows):
        for tile in tiles(rows):
            for group in _groups(problem, tile):
                if problem.blocks(rows) >= target.cores:
                    yield Decision(tile, rows, group, by_block=True)
                yield Decision(tile, rows, group, by_block=False)


def _groups(problem: Problem, tile: RegisterTile) -> list[int]:
    """Sizes of groups: whole register tiles, or all vectors at once."""
    if problem.out_vectors % tile.columns:
        return [problem.out_vectors]
    return [g * tile.columns for g in divisors(problem.out_vectors // tile.columns)]


def _cycles(target: Target, problem: Problem, decision: Decision) -> float:
    """Estimated cycles of one thread, with a surcharge for cores without work."""
    blocks, groups = problem.blocks(decision.rows), problem.out_vectors // decision.group
    step = problem.tiling(decision.rows, even_columns=False).cycles(target, decision.tile)
    cycles = blocks * problem.points * problem.in_channels * step
    cycles += _miss_cycles(target, problem, decision)
    tasks = blocks if decision.by_block else groups
    idle = math.ceil(tasks / target.cores) * target.cores / tasks - 1
    crossing = 1.0 if decision.by_block or target.cores == 1 else CROSSING
    return cycles * crossing * (1 + IDLE_WEIGHT * idle)


def _miss_cycles(target: Target, problem: Problem, decision: Decision) -> float:
    """What lines cost that come into L1 and into L2."""
    blocks, groups = problem.blocks(decision.rows), problem.out_vectors // decision.group
    out_channels = problem.out_vectors * problem.lanes
    weights = problem.operand_bytes * problem.points * problem.in_channels * out_channels
    inputs = problem.input_bytes(decision.rows)
    products = problem.product_bytes(decision.rows, decision.group)
    # One point's inputs stay in L1 for all column tiles, or come in again for each.
    panel = problem.operand_bytes * problem.in_channels * decision.tile.columns * problem.lanes
    stays = inputs / problem.points + panel <= target.caches.l1d
    reads = groups if stays else math.ceil(problem.out_vectors / decision.tile.columns)
    into_l1 = weights + (1 + reads) * inputs + 2 * groups * products
    between = inputs + products
    l2, l3 = target.caches.l2 or target.caches.l1d, target.caches.l3
    of_l1, of_l2, of_l3 = _line_cycles(target)
    cycles = of_l1 * into_l1
    if target.estimate is not None:
        again = pushed_out_of_l2(target, between + weights / groups)
        cycles += of_l2 * again * groups * (inputs + 2 * products)
        cycles += of_l2 * pushed_out_of_l2(target, weights + between) * weights
        return blocks * cycles / target.caches.line
    cycles += of_l2 * max(0.0, 1 - l2 / between) * (into_l1 - weights)
    if weights + between > l2:
        cycles += (of_l2 if weights <= l3 // 4 else of_l3) * weights
    return blocks * cycles / target.caches.line


def _line_cycles(target: Target) -> tuple[float, float, float]:
    """Cycles of a line missing in L1, L2 and L3, beside the arithmetic that hides most of them."""
    if target.estimate is not None:
        of_l2 = target.estimate.cycles_per_l2_miss
        return target.estimate.cycles_per_l1d_miss, of_l2, of_l2
    return (0.6, 2.0, 8.0) if target.caches.l3 else (4.0, 8.0, 8.0)
