"""The register tile: how many accumulators a core can hold, and the best way to spend them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from compiler.target import Target

TASKS_PER_CORE = 4
# More columns are more streams of weights than addressing modes and prefetchers follow.
MAX_COLUMNS = 4
MAX_ROWS = 16
# What a ragged last tile costs beside a full one: on AArch64 it cannot load whole vectors of rows.
RAGGED_COST = {"aarch64": 1.3, "arm": 1.3}
# Multiply-adds take one lane of a vector as their scalar: rows are loaded as vectors.
FMAS_TAKE_LANES = ("aarch64", "arm")
WORTH_WAKING_SECONDS = 10e-6
# Steps of the reduction whose weights RVV loads at once: a group of as many registers.
GROUPED_STEPS = 4
# Vectors that one instruction loads where they lie together.
MOST_TOGETHER = 4
# Registers of the largest group.
MAX_GROUP = 8
# Idle cores weigh less than work: a library also runs on one thread.
IDLE_WEIGHT = 0.5
# Rows and scalars of a group whose loads LLVM places well; more go through the stack. Scalars that
# several groups share stay in registers.
MAX_GROUP_ROWS = 10
MAX_SCALARS = 80
MAX_SHARED_SCALARS = 24


@dataclass(frozen=True)
class RegisterTile:
    """rows x columns accumulators: rows share a weight vector, columns a broadcast input."""

    rows: int
    columns: int


@dataclass(frozen=True)
class WeightGroup:
    """Weights that one load brings: of so many steps of the reduction for so many columns."""

    steps: int
    columns: int


@dataclass(frozen=True)
class TileProblem:
    """What a register tile has to cover: rows x columns vectors.

    Args:
        rows: independent outputs along the broadcast side (pixels, matrix rows).
        columns: vectors along the other side (channel blocks, column blocks).
        width: elements of one column as the schedule sees it.
        depth: steps of the reduction.
        neighbours_share: neighbouring rows read the same inputs at different steps (a window over
            plain rows of pixels), so that LLVM keeps a row of broadcasts in registers.
        even_rows: take only tiles that divide the rows.
        even_columns: take only tiles that divide the columns.
        phases: neighbouring rows use the weights of so many phases in turn; divides the rows.
        grouped_steps: neighbouring steps of the reduction whose weights may be loaded at once; 0
            where each vector is loaded by itself.
        constant: whether the weights can be put into any order.
        splits_columns: whether the last columns get code of their own where tiles do not divide.
        kept_steps: steps of the reduction whose weights stay in registers from one tile of rows to
            the next; 0 where they are loaded again.
        element_bits: of an accumulator.
    """

    rows: int
    columns: int
    width: int
    depth: int
    neighbours_share: bool = False
    even_rows: bool = False
    even_columns: bool = False
    phases: int = 1
    grouped_steps: int = 0
    constant: bool = False
    splits_columns: bool = False
    kept_steps: int = 0
    element_bits: int = 32

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """The tiles that fit in the registers.

        Accumulators, weight vectors and one broadcast must fit, or accumulators spill (3x slower).
        """
        grouped = self.grouped_steps > 0
        most_rows, most = (MAX_GROUP_ROWS, MAX_GROUP) if grouped else (MAX_ROWS, MAX_COLUMNS)
        for c in range(1, min(self.columns, most) + 1):
            if self.even_columns and self.columns % c:
                continue
            for r in range(self.phases, min(self.rows, most_rows) + 1, self.phases):
                if self.even_rows and self.rows % r:
                    continue
                tile = RegisterTile(r, c)
                if self._needs(target, tile) > target.vector.registers:
                    break
                yield tile

    def _needs(self, target: Target, tile: RegisterTile) -> int:
        """Registers of a tile and what is beside it."""
        vectors = tile.columns * self.registers(target)
        if self.grouped_steps:
            # LLVM mixes steps whose scalars neighbours share: the next group comes early.
            groups = 2 if self.neighbours_share else 1
            return tile.rows * vectors + groups * MAX_GROUP
        beside = _temporaries(target, tile.rows, vectors, self.neighbours_share)
        return (tile.rows + max(self.phases, self.kept_steps)) * vectors + beside

    def registers(self, target: Target) -> int:
        """Vector registers of one column."""
        return max(1, math.ceil(self.width / target.vector.lanes(self.element_bits)))

    def cycles(self, target: Target, tile: RegisterTile) -> float:
        """Estimated cycles of one step of the reduction of all tiles."""
        registers, group = self.registers(target), self.group(tile)
        return sum(
            row_tiles * column_tiles * self._step_cycles(target, tile_rows, vectors, group)
            for tile_rows, row_tiles in parts(target, self.rows, tile.rows)
            for vectors, column_tiles in parts(
                target, self.columns * registers, tile.columns * registers
            )
        )

    def group(self, tile: RegisterTile) -> WeightGroup | None:
        """The weights to load at once; None where each vector is loaded by itself.

        One load fills ``MAX_GROUP`` registers: columns first, which all use the same scalars, then
        steps, as many as have their scalars in registers.
        """
        if not self.grouped_steps:
            return None
        whole = self.splits_columns or self.columns % tile.columns == 0
        columns = math.gcd(tile.columns, MAX_GROUP) if self.constant and whole else 1
        steps = math.gcd(self.grouped_steps, MAX_GROUP // columns)
        scalars = MAX_SCALARS if columns == tile.columns else MAX_SHARED_SCALARS
        while steps > 1 and steps * tile.rows > scalars:
            steps //= 2
        return WeightGroup(steps, columns)

    def _step_cycles(
        self, target: Target, rows: int, vectors: int, group: WeightGroup | None
    ) -> float:
        """Estimated cycles of one reduction step: FMAs, loads, or the chain of dependent FMAs."""
        vector, l1d = target.vector, target.caches.l1d
        vector_bytes = max(vector.bits, 32) // 8
        fmas = rows * vectors / vector.fma_per_cycle
        # The weights of a tile are read again for every tile along the rows: from L2 if L1 is
        # small.
        panel_in_l1 = vectors * self.depth * vector_bytes <= l1d * 3 // 4
        # Where FMAs take a lane as scalar, one load brings a row's values for several steps.
        lanes = vector.lanes(self.element_bits)
        row_loads = rows / lanes if target.arch in FMAS_TAKE_LANES else rows
        weight_loads, chain, from_l2 = float(vectors), vector.fma_latency, vectors / 2
        issue = 0.15  # of a load beside arithmetic
        if group:
            # A load and the addition of its address; all of a panel in one stream.
            weight_loads = 2 * vectors / (group.steps * group.columns)
            chain *= math.ceil(vectors / group.columns)
            from_l2 /= 2
            issue = 0.4  # in order
        loads = row_loads + weight_loads + (0 if panel_in_l1 else from_l2)
        loads /= vector.fma_per_cycle
        # Accumulators that just cover the latency leave no slack for late loads.
        return max(fmas, loads, 1.25 * chain) + issue * loads


def choose_register_tile(target: Target, problem: TileProblem) -> RegisterTile:
    """The tile with the least estimated time."""
    best, best_cycles = RegisterTile(problem.phases, 1), math.inf
    for tile in problem.tiles(target):
        cycles = problem.cycles(target, tile)
        if cycles < best_cycles * 0.999:
            best, best_cycles = tile, cycles
    return best


def loads_weights_as_groups(target: Target, depth: int) -> bool:
    """Whether one load should bring the weights of several steps of the innermost reduction.

    RVV loads name no offset, so that each needs an addition beside it; but they fill up to eight
    registers at once.
    """
    groups = target.arch == "riscv64" and target.has_known_vector_length
    return groups and depth % GROUPED_STEPS == 0


def weights_together(target: Target, tile: RegisterTile, inputs: int, steps: int) -> int:
    """Vectors of weights that one instruction loads beside a tile, 3 or 4; 0 where none fit.

    Args:
        inputs: registers that hold inputs.
        steps: of the reduction, whose weights [steps, columns] lie together.
    """
    if not target.groups_loads:
        return 0
    free = target.vector.registers - tile.rows * tile.columns - inputs
    for vectors in (MOST_TOGETHER, MOST_TOGETHER - 1):
        rows, rest = divmod(vectors, tile.columns)
        if vectors <= free and (tile.columns % vectors == 0 or (rest == 0 and steps % rows == 0)):
            return vectors
    return 0


def parts(target: Target, total: int, size: int) -> list[tuple[int, float]]:
    """(extent, weighted count) of the full tiles and of the ragged last one."""
    tiles = [(size, float(total // size))]
    ragged = (total % size, RAGGED_COST.get(target.arch, 1.05))
    return [*tiles, ragged] if total % size else tiles


def _temporaries(target: Target, rows: int, vectors: int, neighbours_share: bool) -> int:
    """Registers beside accumulators and weights, as read off LLVM's code for each family."""
    if target.arch == "riscv64" and target.vector.bits:
        # Scalars have registers of their own; one group of weights is loaded while one is used.
        return max(1, 2 * GROUPED_STEPS - vectors)
    products = 0 if target.vector.fma else 3
    if target.arch in FMAS_TAKE_LANES or neighbours_share:
        return rows + 1 + products  # each row's scalar is loaded ahead into a vector register
    return 1 + products  # the broadcast beside them


def choose_row_block(
    target: Target, row_bytes: int, rows: int, weight_bytes: int, column_tiles: int
) -> int:
    """Rows to finish for all columns before the next rows are touched, so that inputs stay in L2.

    Without blocks the whole input is read once for every column tile; with blocks the whole
    weights are read once for every block. The way with less traffic beyond L2 wins; where an L3
    holds everything, that traffic is cheap and blocks only cost.

    Args:
        row_bytes: input bytes that one row (a picture's or a matrix') of the result reads.
        rows: rows of the result.
        weight_bytes: all weights together.
        column_tiles: register tiles along the columns.
    """
    l2 = target.caches.l2 or target.caches.l1d
    input_bytes = row_bytes * rows
    if input_bytes <= l2 // 2 or input_bytes + weight_bytes <= target.caches.l3 // 2:
        return rows
    blocks = math.ceil(input_bytes / (l2 // 2))
    blocked = input_bytes + blocks * weight_bytes
    unblocked = weight_bytes + column_tiles * input_bytes
    # Short blocks use each weight they load less often, so the gain must be clear.
    return math.ceil(rows / blocks) if 2 * blocked < unblocked else rows


def choose_depth(target: Target, panel_bytes: int, chunks: int) -> int:
    """How many of ``chunks`` steps of the reduction to do in one pass; 0 for all.

    Every tile along the rows reads a tile's whole weights again. Those that do not stay in L2
    beside the inputs are cut into panels that do.

    Args:
        panel_bytes: weights of one tile of columns.
        chunks: equal parts into which the reduction may be cut.
    """
    l2 = target.caches.l2
    if panel_bytes <= l2 // 2 or not l2:
        return 0
    fitting = [
        d for d in range(1, chunks) if chunks % d == 0 and panel_bytes * d // chunks <= l2 // 8
    ]
    return max(fitting, default=0)


def pushed_out_of_l2(target: Target, nbytes: float) -> float:
    """What part of so many bytes, used in turns, leaves L2 before the next turn; 0 to 1.

    Sets fill up unevenly: some overflow before the cache is full.
    """
    fill = nbytes / (target.caches.l2 or target.caches.l1d)
    return min(1.0, max(0.0, (fill - 0.75) / 0.75))


def split_for_cores(target: Target, rows: int, block: int, other_tasks: int) -> int:
    """A block of rows small enough that all cores find work.

    Args:
        rows: rows (or tiles of rows) of the result.
        block: rows of a block as the caches want it.
        other_tasks: independent tasks beside the blocks of rows.
    """
    wanted = math.ceil(TASKS_PER_CORE * target.cores / other_tasks)
    return min(block, math.ceil(rows / wanted))


def divisors(value: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, value + 1) if value % d == 0]


def even_block(rows: int, most: int) -> int:
    """The largest block up to ``most`` that divides the rows; all rows where that is too small."""
    block = max(b for b in range(1, most + 1) if rows % b == 0)
    return block if 2 * block >= most else rows


def worth_sharing(target: Target, tasks: int) -> float:
    """How many times the cycles may be spent where so few tasks are cut into many equal ones."""
    rounds = math.ceil(tasks / target.cores)
    return 1 + IDLE_WEIGHT * (rounds * target.cores / tasks - 1)


def parallel_grain(target: Target, bits: int = 32) -> int:
    """Multiply-accumulates that take a core about ten microseconds, a few times a wake-up."""
    return int(WORTH_WAKING_SECONDS * target.peak_gflops(bits) * 1e9 / 2)
