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
    result_bits,
    spread,
)
from schedules.choices import Chooser
from schedules.constants import rearrange_constant
from schedules.tiles import (
    FMAS_TAKE_LANES,
    divisors,
    loads_weights_as_groups,
    parallel_grain,
    weights_together,
)
from schedules.winograd_integer import IntegerProblem, tile_products
from schedules.winograd_space import Decision, Problem, decide, promising_decisions

PRODUCTS = "winograd_products"
STAGES = ("pad", "winograd_rows", "winograd_input")
RESULTS = ("winograd_output_rows", "winograd_output")
PAGE = 4096


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function of ``winograd_ops.conv2d``; None for any other."""
    blocks = {sch.get(b).name_hint: b for b in sch.get_child_blocks(sch.get_sblock("root"))}
    if not {*STAGES, *RESULTS} <= set(blocks):
        return None
    products, output = blocks[PRODUCTS], list(blocks.values())[-1]
    for name in list(blocks)[list(blocks).index("winograd_output") + 1 : -1]:
        sch.compute_inline(blocks[name])
    problem = read_problem(sch, products, blocks["winograd_output"])
    integer = isinstance(problem, IntegerProblem)
    if integer and not target.loads_register_groups:
        return None
    decision = choose(sch, decide(target, problem), promising_decisions(target, problem))
    grain = parallel_grain(target, problem.sum_bits)
    worth_sharing = iterations(sch, products) >= grain
    _schedule(sch, target, problem, decision, output, worth_sharing)
    report = {"template": "winograd", "variant": f"F({problem.m}x{problem.m}, 3x3)"}
    if integer:
        report |= {"template": "winograd_integer", "intrinsic": "rvv_vwmacc"}
    return {**report, "decision": str(decision)}


def read_problem(sch: Schedule, products: Block, tiles: Block) -> Problem:
    """The extents of a function that is not scheduled yet."""
    _, _, n, out_vectors, _, lanes, *channels = (
        int(v.dom.extent) for v in sch.get(products).iter_vars
    )
    _, _, rows, columns, m, _, _ = (int(v.dom.extent) for v in sch.get(tiles).iter_vars)
    dtype = str(sch.get(products).writes[0].source.ty.dtype)
    kind = IntegerProblem if dtype == "int32" else Problem
    bits = result_bits(sch, products)
    return kind(n, m, rows, columns, math.prod(channels), out_vectors, lanes, bits)


def _schedule(
    sch: Schedule,
    target: Target,
    problem: Problem,
    decision: Decision,
    output: Block,
    worth_sharing: bool,
) -> None:
    integer = isinstance(problem, IntegerProblem)
    in_groups = not integer and loads_weights_as_groups(target, problem.lanes)
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
    for stage, size in (
        ("winograd_input", problem.operand_bytes),
        (f"{name}_local", problem.sum_bits // 8),
    ):
        # The points of one tile are one line apart modulo a page: all in different sets of L1.
        sch.storage_align(sch.get_sblock(stage), 0, 1, PAGE // size, target.caches.line // size)
    channels = _tile_products(sch, target, decision, name, in_order, integer)
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
    vector_bytes = problem.sum_bits // 8 * (problem.m + 2) * problem.lanes
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
    sch: Schedule, target: Target, decision: Decision, name: str, in_order: bool, integer: bool
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
    if integer:
        loops = [row, column, lane, outer, inner]
        return tile_products(sch, target, products, decision.tile, loops, in_order)
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
