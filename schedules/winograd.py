"""Winograd's convolution: transforms around one matrix product for each point of a tile.

A block of tile rows goes through all three stages before the next one starts, so that what lies
between them stays in the cache:

    parallel n, block of tile rows
      for channel vector, tile row                  input transform
        pad(rows that the tiles read)
        for chunk of tiles
          for column: half[e] = B^T d               (tiles share columns)
          for tile, e: v[e][f] = half[e] B
      for group of output vectors
        for e, f, column_tile, row_tile             products: tiles x output vectors
          acc[rows][columns] = 0
          for ic: acc[r][c] += broadcast(v[e][f][...]) * u[e][f][c][...]
        for output vector, tile row, chunk of tiles output transform
          for tile, column: half = A^T p
          for tile, row: y = half A; epilogue over its m outputs

Where there are too few blocks for the cores, these share channel vectors and groups instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import (
    Block,
    Loop,
    Schedule,
    extent,
    iterations,
    load_neighbours,
    load_rows_as_vectors,
    load_weights_as_groups,
    partition_tail,
    spread,
)
from schedules.choices import Chooser, nearby
from schedules.constants import rearrange_constant
from schedules.tiles import (
    FMAS_TAKE_LANES,
    RegisterTile,
    TileProblem,
    choose_register_tile,
    divisors,
    loads_weights_as_groups,
    parallel_grain,
    pushed_out_of_l2,
    weights_together,
)

PRODUCTS = "winograd_products"
STAGES = ("pad", "winograd_rows", "winograd_input")
RESULTS = ("winograd_output_rows", "winograd_output")
# Sharing channels sends what one core has transformed to the others.
CROSSING = 1.1
# Idle cores weigh less than work: a library also runs on one thread.
IDLE_WEIGHT = 0.5
PAGE = 4096
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


@dataclass(frozen=True)
class Problem:
    """Extents of one convolution; channels in vectors on the output's side."""

    batch: int
    m: int
    tile_rows: int
    tile_columns: int
    in_channels: int
    out_vectors: int
    lanes: int

    @property
    def points(self) -> int:
        return (self.m + 2) ** 2

    def blocks(self, rows: int) -> int:
        """Blocks of so many rows of tiles."""
        return self.batch * self.tile_rows // rows

    def tiles(self, rows: int) -> int:
        """Tiles of a block of so many rows."""
        return rows * self.tile_columns

    def tiling(self, rows: int, even_columns: bool) -> TileProblem:
        """The product at one point, for a block of so many rows."""
        return TileProblem(
            self.tiles(rows),
            self.out_vectors,
            self.lanes,
            self.in_channels,
            even_columns=even_columns,
        )

    def input_bytes(self, rows: int) -> int:
        """Bytes of a block's transformed inputs."""
        return 4 * self.points * self.tiles(rows) * self.in_channels

    def product_bytes(self, rows: int, vectors: int) -> int:
        """Bytes of a block's products for so many output vectors."""
        return 4 * self.points * self.tiles(rows) * vectors * self.lanes


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function of ``winograd_ops.conv2d``; None for any other."""
    blocks = {sch.get(b).name_hint: b for b in sch.get_child_blocks(sch.get_sblock("root"))}
    if not {*STAGES, *RESULTS} <= set(blocks):
        return None
    products, output = blocks[PRODUCTS], list(blocks.values())[-1]
    for name in list(blocks)[list(blocks).index("winograd_output") + 1 : -1]:
        sch.compute_inline(blocks[name])
    problem = read_problem(sch, products, blocks["winograd_output"])
    decision = choose(sch, decide(target, problem), promising_decisions(target, problem))
    macs = iterations(sch, products)
    _schedule(sch, target, problem, decision, output, macs >= parallel_grain(target))
    variant = f"F({problem.m}x{problem.m}, 3x3)"
    return {"template": "winograd", "variant": variant, "decision": str(decision)}


def read_problem(sch: Schedule, products: Block, tiles: Block) -> Problem:
    """The extents of a function that is not scheduled yet."""
    _, _, n, out_vectors, _, lanes, *channels = (
        int(v.dom.extent) for v in sch.get(products).iter_vars
    )
    _, _, rows, columns, m, _, _ = (int(v.dom.extent) for v in sch.get(tiles).iter_vars)
    return Problem(n, m, rows, columns, math.prod(channels), out_vectors, lanes)


def decide(target: Target, problem: Problem) -> Decision:
    """The block of rows, and the register tile for it, with the least estimated time."""

    def tiles(rows: int) -> list[RegisterTile]:
        return [
            choose_register_tile(target, problem.tiling(rows, even))
            for even in (True, target.arch in FMAS_TAKE_LANES)
        ]

    candidates = _decisions(target, problem, tiles)
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
    weights = 4 * problem.points * problem.in_channels * out_channels
    inputs = problem.input_bytes(decision.rows)
    products = problem.product_bytes(decision.rows, decision.group)
    # One point's inputs stay in L1 for all column tiles, or come in again for each.
    panel = 4 * problem.in_channels * decision.tile.columns * problem.lanes
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


def _schedule(
    sch: Schedule,
    target: Target,
    problem: Problem,
    decision: Decision,
    output: Block,
    worth_sharing: bool,
) -> None:
    in_groups = loads_weights_as_groups(target, problem.lanes)
    in_order = False
    if problem.out_vectors % decision.tile.columns == 0 and not in_groups:
        # [points, OCb, ICb, ci, c] -> [points, OCb/columns, ICb, ci, columns, c]: one stream.
        factors = {1: [decision.tile.columns]}
        order = [0, 1, 3, 4, 2, 5]
        in_order = rearrange_constant(sch, sch.get_sblock(PRODUCTS), 1, factors, order)
    n, block, group = _tile_output(sch, target, problem, decision, output)
    name = _split_products(sch, problem.tiles(decision.rows))
    sch.compute_at(sch.get_sblock(f"{name}_local"), group, preserve_unit_loops=True)
    sch.compute_at(sch.get_sblock(name), group, preserve_unit_loops=True)
    sch.compute_at(sch.get_sblock("winograd_input"), block, preserve_unit_loops=True)
    for stage in ("winograd_input", f"{name}_local"):
        # The points of one tile are one line apart modulo a page: all in different sets of L1.
        sch.storage_align(sch.get_sblock(stage), 0, 1, PAGE // 4, target.caches.line // 4)
    channels = _tile_products(sch, target, decision, name, in_order)
    vectors = _tile_input(sch, target, problem)
    if worth_sharing:
        for loops in [[n, block]] if decision.by_block else [[vectors], [group]]:
            spread(sch, loops, work=1, grain=0)
    sch.decompose_reduction(sch.get_sblock(name), channels)


def _tile_output(
    sch: Schedule, target: Target, problem: Problem, decision: Decision, output: Block
) -> tuple[Loop, Loop, Loop]:
    """Tile the epilogue and transform under it; returns the loops n, block of rows, group."""
    n, channels, height, width, lane = sch.get_loops(output)
    tile_row, i = sch.split(height, [None, problem.m])
    tile_column, j = sch.split(width, [None, problem.m])
    block, row = sch.split(tile_row, [None, decision.rows])
    group, vector = sch.split(channels, [None, decision.group])
    chunk, tile_column = sch.split(tile_column, [None, _chunk(target, problem)])
    sch.reorder(n, block, group, vector, row, chunk, tile_column, i, j, lane)
    rows, tiles = (sch.get_sblock(name) for name in RESULTS)
    _unroll_points(sch, target, j, lane)
    sch.compute_at(tiles, i if target.vector.bits else lane, preserve_unit_loops=True)
    *_, points, inner = sch.get_loops(tiles)
    _unroll_points(sch, target, points, inner)
    # Through memory: the values between both transforms of a tile would fill all registers.
    sch.compute_at(rows, chunk, preserve_unit_loops=True)
    *_, points, column, k, inner = sch.get_loops(rows)
    sch.reorder(column, k, points, inner)
    sch.unroll(points)
    sch.vectorize(inner)
    return n, block, group


def _chunk(target: Target, problem: Problem) -> int:
    """Tiles of a row transformed along one axis before they are along the other.

    What lies between stays in L1; chunks are even, and a row that has no good divisor is one.
    """
    vector_bytes = 4 * (problem.m + 2) * problem.lanes
    fitting = (target.caches.l1d * 3 // 8 // vector_bytes - 2) // problem.m
    chunk = max((d for d in divisors(problem.tile_columns) if d <= fitting), default=1)
    return chunk if 3 * chunk >= min(fitting, problem.tile_columns) else problem.tile_columns


def _unroll_points(sch: Schedule, target: Target, points: Loop, lane: Loop) -> None:
    """A transform along one axis: its points unrolled, for all lanes at once or lane by lane."""
    if target.vector.bits:
        sch.vectorize(lane)
    else:
        sch.reorder(lane, points)
    sch.unroll(points)


def _split_products(sch: Schedule, tiles: int) -> str:
    """Give the block of tiles an axis of its own, and accumulators that are copied out.

    With the axis the extent of a block is known where a ragged register tile ends.
    """
    name = PRODUCTS
    products = sch.get_sblock(name)

    def split(e, f, n, j, p, lane, *channels):
        return (e, f, n, j, p // tiles, p % tiles, lane, *channels)

    sch.transform_block_layout(
        products, lambda e, f, n, j, p, lane, co, ci: split(e, f, n, j, p, lane, co, ci)
    )
    sch.transform_layout(
        products, ("write", 0), lambda e, f, n, j, p, lane: split(e, f, n, j, p, lane)
    )
    sch.cache_write(products, 0, "local")
    return name


def _tile_products(
    sch: Schedule, target: Target, decision: Decision, name: str, in_order: bool
) -> Loop:
    copy, products = sch.get_sblock(f"{name}_local"), sch.get_sblock(name)
    e, f, n, vector, block, tile, lane = sch.get_loops(copy)[-7:]
    column_tile, column = sch.split(vector, [None, decision.tile.columns])
    row_tile, row = sch.split(tile, [None, decision.tile.rows])
    sch.reorder(e, f, n, block, column_tile, row_tile, row, column, lane)
    sch.compute_at(products, row_tile, preserve_unit_loops=True)
    partition_tail(sch, row_tile)
    for loop in (column, row):
        sch.unroll(loop)
    sch.vectorize(lane)
    *_, column, _, row, lane, outer, inner = sch.get_loops(products)
    sch.reorder(outer, inner, row, column, lane)
    if target.arch in FMAS_TAKE_LANES and extent(sch, inner) > 1:
        part = outer
        if target.groups_loads and extent(sch, outer) % 4 == 0:
            outer, part = sch.split(outer, [None, 2])
            sch.unroll(part)
        load_rows_as_vectors(sch, products, part, inner)
        together = weights_together(target, decision.tile, decision.tile.rows, extent(sch, inner))
        if together and in_order:
            load_neighbours(sch, products, inner, together, decision.tile, [row, column, lane])
    elif loads_weights_as_groups(target, extent(sch, inner)):
        load_weights_as_groups(sch, products, inner, column, [row, lane])
    for loop in (column, row):
        sch.unroll(loop)
    sch.vectorize(lane)
    return outer


def _tile_input(sch: Schedule, target: Target, problem: Problem) -> Loop:
    """Transform tile by tile; returns the loop over vectors of channels."""
    tiles, rows, pad = (sch.get_sblock(name) for name in reversed(STAGES))
    e, f, n, vector, tile, lane = sch.get_loops(tiles)[-6:]
    size = _chunk(target, problem)
    row, chunk, column = sch.split(tile, [None, problem.tile_columns // size, size])
    sch.reorder(n, vector, row, chunk, column, e, f, lane)
    _unroll_points(sch, target, f, lane)
    # Through memory for several tiles, as neighbours share columns.
    sch.compute_at(rows, chunk, preserve_unit_loops=True)
    *_, e, x, lane = sch.get_loops(rows)
    sch.reorder(x, e, lane)
    _unroll_points(sch, target, e, lane)
    sch.compute_at(pad, row, preserve_unit_loops=True)
    *_, width, lane = sch.get_loops(pad)
    partition_tail(sch, width)
    sch.vectorize(lane)
    return vector
