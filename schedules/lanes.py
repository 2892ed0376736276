"""Tiles and blocks of convolutions where multiply-adds take one lane of a vector as their scalar.

On AArch64 inputs are loaded as vectors, of channels or of neighbouring pixels, and used lane by
lane. What a tile costs is then mostly a matter of counting instructions, and of how often lines
come into L1 again; both are priced by the CPU's fit (``edgecc estimate``) where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from compiler.target import LatencyFit, Target
from schedules.choices import nearby
from schedules.tiles import (
    MOST_TOGETHER,
    RegisterTile,
    even_block,
    parallel_grain,
    pushed_out_of_l2,
    split_for_cores,
    weights_together,
)

# In-order cores want loads well before their use: LLVM keeps so many more values, by bits of an
# element. Lanes of float16 can be factors in 16 of the registers only.
SPARE_IN_ORDER = {32: 1, 16: 4}
MAX_ROWS = 16
MAX_COLUMNS = 6
# Shorter passes over the depth spend too much on loading and storing the sums.
MIN_DEPTH_BLOCK = 32
# Idle cores weigh less than work: a library also runs on one thread.
IDLE_WEIGHT = 0.25
# Instructions around a tile's reduction: addresses, loop, branches.
TILE_OVERHEAD = 14
# Blockings that a tuner looks at: so many, and none with this many times the best's cycles.
MAX_BLOCKINGS = 512
SLACK = 1.5
# A ragged tile's loads have guards.
RAGGED_COST = 1.15


@dataclass(frozen=True)
class Problem:
    """A convolution as its register tiles see it.

    Args:
        batch, height, width: extents of the result; height 1 for one long row of pixels.
        blocks: vectors of output channels; ``group_blocks`` of them share their inputs.
        channels: outer steps over input channels (vectors, or single channels), each with
            kernel_height x kernel_width taps and ``lanes`` inner steps.
        plain: neighbouring pixels lie together instead of channels.
        input_bytes, vector_bytes: of the activations; of one vector register.
        epilogue: instructions for each vector of the result.
        by_part: the parts of the batch are the tasks, and no other sums but theirs are kept.
        instructions: of one vector multiply-add; temporaries: registers that these need.
        pixel_bytes: of a pixel's channels that lie together; 0: as many elements as lanes.
        pixels: that one multiply-add takes together; rows of a tile are so many pixels each.
        most_columns: vectors of output channels of a tile.
        element_bits: of an accumulator.
    """

    batch: int
    height: int
    width: int
    blocks: int
    group_blocks: int
    channels: int
    kernel_height: int
    kernel_width: int
    lanes: int
    stride: int
    stride_height: int
    dilation: int
    plain: bool
    input_bytes: int
    vector_bytes: int
    epilogue: int
    by_part: bool = False
    instructions: int = 1
    temporaries: int = 0
    pixel_bytes: int = 0
    pixels: int = 1
    most_columns: int = MAX_COLUMNS
    element_bits: int = 32

    @property
    def macs(self) -> int:
        """Vector multiply-adds."""
        steps = self.channels * self.kernel_height * self.kernel_width * self.lanes
        return self.batch * self.height * self.width * self.blocks * steps

    def span(self, rows: int) -> int:
        """Neighbouring pixels of one line that a tile reads."""
        return (rows - 1) * self.stride + (self.kernel_width - 1) * self.dilation + 1

    def input_vectors(self, tile: RegisterTile, lanes: int) -> int:
        """Registers for the inputs of a tile, in the form that needs the fewest."""
        return math.ceil(self.span(tile.rows) / lanes) if self.plain else tile.rows

    def shares(self, tile: RegisterTile, registers: int) -> bool:
        """Whether the taps of a kernel row use one set of loaded pixels."""
        if self.plain:
            return True
        several = self.kernel_width > 1 and self.lanes > 1 and self.pixels == 1
        vectors = self.span(tile.rows) + tile.columns * (tile.rows + 1)
        return (
            several
            and self.span(tile.rows) < tile.rows * self.kernel_width
            and (vectors <= registers)
        )


def weights_of_one_load(target: Target, problem: Problem, tile: RegisterTile) -> int:
    """Vectors of weights that one instruction loads beside a tile, 3 or 4; 0 where none fit."""
    if problem.channels == 1:
        return 0  # LLVM hoists the weights out of the loop over tiles, and spills what is left
    inputs = problem.input_vectors(tile, target.vector.lanes(problem.element_bits))
    if problem.shares(tile, target.vector.registers) and not problem.plain:
        inputs = problem.span(tile.rows)
    return weights_together(target, tile, inputs, problem.lanes)


@dataclass(frozen=True)
class Blocking:
    """What a tuner may choose.

    Args:
        tile: accumulators kept in registers.
        chunk: vectors of output channels whose weights stay in L1 for a block of rows.
        depth: outer steps over input channels before the next tile; fewer than all of them: sums
            go through memory.
        block: rows (of one long row: row tiles) finished before the next.
    """

    tile: RegisterTile
    chunk: int
    depth: int
    block: int


def choose_blocking(target: Target, problem: Problem) -> Blocking:
    """The tile and blocks with the least estimated time."""
    return min(candidates(target, problem), key=lambda b: cycles(target, problem, b))


def promising_blockings(
    target: Target, problem: Problem, blockings: Iterable[Blocking] | None = None
) -> Iterator[Blocking]:
    """What a tuner may choose, the cheapest by the estimate first.

    Args:
        blockings: those that a template takes; None: all candidates.
    """
    if blockings is None:
        blockings = candidates(target, problem)
    return nearby(lambda b: cycles(target, problem, b), blockings, MAX_BLOCKINGS, SLACK)


def candidates(target: Target, problem: Problem) -> Iterator[Blocking]:
    """All tiles that fit in the registers, with all blocks."""
    columns = [c for c in range(1, problem.most_columns + 1) if problem.group_blocks % c == 0]
    for c in columns:
        for r in range(1, min(problem.width, MAX_ROWS) + 1):
            tile = RegisterTile(r, c)
            if r > 1 and _registers(problem, tile, target) > target.vector.registers:
                break
            for chunk in (q for q in range(c, problem.blocks + 1, c) if problem.blocks % q == 0):
                for depth in _depths(problem):
                    for block in _row_blocks(target, problem, tile, chunk):
                        yield Blocking(tile, chunk, depth, block)


def _registers(problem: Problem, tile: RegisterTile, target: Target) -> int:
    """Accumulators, one step's weights and inputs."""
    if problem.pixels > 1:
        # Halves of vectors of inputs, two of these before they are taken apart, and four weights.
        return tile.rows * (tile.columns + problem.pixels) + problem.pixels + min(4, tile.columns)
    inputs = problem.input_vectors(tile, target.vector.lanes(problem.element_bits))
    ahead = SPARE_IN_ORDER[problem.element_bits] if target.in_order else 0
    weights = tile.columns if problem.instructions == 1 else min(2, tile.columns)
    return tile.columns * tile.rows + weights + inputs + ahead + problem.temporaries


def _depths(problem: Problem) -> list[int]:
    if problem.height > 1 or problem.by_part:
        return [problem.channels]
    shortest = math.ceil(MIN_DEPTH_BLOCK / problem.lanes)
    return [d for d in range(shortest, problem.channels) if problem.channels % d == 0] + [
        problem.channels
    ]


def _row_blocks(target: Target, problem: Problem, tile: RegisterTile, chunk: int) -> list[int]:
    """All rows at once, or blocks that keep the cores busy; a ragged tile cannot be blocked."""
    if problem.height > 1:
        return [problem.height]
    rows = math.ceil(problem.width / tile.rows)
    if problem.width % tile.rows or problem.by_part:
        return [rows]
    tasks = problem.batch * problem.blocks // chunk
    return list({rows, even_block(rows, split_for_cores(target, rows, rows, tasks))})


def cycles(target: Target, problem: Problem, blocking: Blocking) -> float:
    """Estimated cycles of one thread, with a surcharge for cores without work."""
    fit = target.estimate or LatencyFit(0.9 / target.vector.fma_per_cycle, 4.0, 8.0, 0.0, "")
    work = _work(target, problem, blocking, fit.cycles_per_instruction)
    l1, l2 = _misses(target, problem, blocking)
    # A fit that prices L1 misses at nothing could not tell them from L2 misses.
    cycles = work + (fit.cycles_per_l1d_miss or 4.0) * l1 + fit.cycles_per_l2_miss * l2
    tasks = problem.batch
    if not problem.by_part:
        tasks *= problem.blocks // blocking.chunk * _tasks_along_rows(problem, blocking)
    bits = problem.element_bits
    if problem.macs * target.vector.lanes(bits) < parallel_grain(target, bits):
        return cycles
    idle = math.ceil(tasks / target.cores) * target.cores / tasks - 1
    return cycles * (1 + IDLE_WEIGHT * idle)


def _tasks_along_rows(problem: Problem, blocking: Blocking) -> int:
    if problem.height > 1:
        return problem.height
    return math.ceil(math.ceil(problem.width / blocking.tile.rows) / blocking.block)


def _work(
    target: Target, problem: Problem, blocking: Blocking, cycles_per_instruction: float
) -> float:
    """Cycles if all data were in L1."""
    tile = blocking.tile
    full, rest = divmod(problem.width, tile.rows)
    shares = problem.shares(tile, target.vector.registers)
    cycles = full * _tile_cycles(
        target, problem, blocking, tile.rows, cycles_per_instruction, shares
    )
    if rest:
        cycles += RAGGED_COST * _tile_cycles(
            target, problem, blocking, rest, cycles_per_instruction, shares
        )
    return cycles * problem.batch * problem.height * problem.blocks / tile.columns


def _tile_cycles(
    target: Target,
    problem: Problem,
    blocking: Blocking,
    rows: int,
    cycles_per_instruction: float,
    shares: bool,
) -> float:
    columns, lanes = blocking.tile.columns, target.vector.lanes(problem.element_bits)
    most = MOST_TOGETHER if target.groups_loads else 2
    taps = problem.kernel_width
    steps = taps * problem.lanes
    if problem.plain:
        loads: float = math.ceil(problem.span(rows) / lanes)
    elif problem.pixels > 1:  # each vector of inputs, and its halves put together
        loads = taps * rows * problem.pixels * 2
    elif problem.lanes == 1:
        loads = rows * taps
    elif shares:
        loads = math.ceil(problem.span(rows) / most)
    else:
        loads = taps * (math.ceil(rows / most) if problem.stride == 1 else rows)
    together = weights_of_one_load(target, problem, blocking.tile) or 2
    arithmetic = steps * rows * columns * problem.instructions
    step = arithmetic + math.ceil(steps * columns / together) + loads + 2
    passes = problem.channels // blocking.depth
    lines = problem.channels * problem.kernel_height
    around: float = rows * columns * (2 + problem.epilogue) + TILE_OVERHEAD
    if passes > 1:
        around += passes * (rows * columns * 1.25 + TILE_OVERHEAD)
    chain = lines * steps * target.vector.fma_latency * 1.1
    return max((lines * step + around) * cycles_per_instruction, chain)


def _misses(target: Target, problem: Problem, blocking: Blocking) -> tuple[float, float]:
    """Lines that come into L1 and into L2."""
    if problem.by_part and problem.batch > 1:
        # Each part's input is there when its turn comes; weights are not.
        one = replace(problem, batch=1, input_bytes=problem.input_bytes // problem.batch)
        l1, l2 = _misses(target, one, blocking)
        return l1 * problem.batch, l2 * problem.batch
    caches, tile = target.caches, blocking.tile
    line = caches.line
    taps = problem.kernel_height * problem.kernel_width
    pixels = problem.batch * problem.height * problem.width
    inputs = problem.input_bytes / line
    weights = problem.channels * taps * problem.lanes * problem.blocks * problem.vector_bytes / line
    outputs = pixels * problem.blocks * problem.vector_bytes / line
    chunks = problem.blocks // blocking.chunk
    passes = problem.channels // blocking.depth
    row_tiles = problem.height * math.ceil(problem.width / tile.rows)
    row_blocks = _tasks_along_rows(problem, blocking) if problem.height == 1 else 1

    panel = blocking.depth * taps * problem.lanes * blocking.chunk * problem.vector_bytes
    stretch = problem.span(tile.rows) * (
        problem.pixel_bytes or problem.lanes * problem.element_bits // 8
    )
    tile_input = blocking.depth * problem.kernel_height * (stretch + 0.75 * line)
    ways = max(caches.l1d_ways, 2)
    stays = (
        panel <= caches.l1d * (ways - 1) / ways
        and panel + (1 + 2 / ways) * tile_input <= 0.9 * caches.l1d
    )
    window = problem.input_bytes / (problem.height * problem.batch) * problem.kernel_height
    again = 1.0
    if problem.height > 1 and window + panel > 0.75 * caches.l1d:
        again = max(1.0, problem.kernel_height / problem.stride_height)
    plane = problem.height * problem.width
    input_plane = problem.input_bytes // max(1, problem.batch * problem.channels)
    if not stays or _collide(target, blocking.depth, input_plane):
        again *= _straddling(stretch, line)
    in_l1 = problem.input_bytes + panel <= 0.75 * caches.l1d
    reads = inputs if in_l1 else inputs * chunks * again
    reads += weights * problem.batch * (row_blocks if stays else row_tiles)
    sums = outputs * (1 if passes == 1 else passes + 3)
    if _collide(target, blocking.chunk, plane * problem.vector_bytes):
        sums *= _straddling(tile.rows * problem.vector_bytes, line)

    beyond = inputs + weights + outputs
    read = inputs / row_blocks
    between = read + weights / chunks + outputs / (row_blocks * chunks)
    beyond += inputs * (chunks - 1) * pushed_out_of_l2(target, line * between)
    beyond += weights * (row_blocks - 1) * pushed_out_of_l2(target, line * (weights + read))
    return reads + sums, beyond


def _straddling(nbytes: float, line: int) -> float:
    """How often lines come in when both neighbours of a stretch of bytes fetch those they share."""
    return 1.0 if nbytes % line == 0 else 1 + 0.75 * line / nbytes


def _collide(target: Target, streams: int, distance: int) -> bool:
    """Whether streams this many bytes apart push each other's lines out of their sets of L1."""
    way = target.caches.l1d // max(1, target.caches.l1d_ways)
    positions = way // math.gcd(distance, way)
    return streams > positions * target.caches.l1d_ways // 2
