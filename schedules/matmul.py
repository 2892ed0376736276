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

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import (
    Anchored,
    extent,
    find_anchored,
    iterations,
    load_rows_as_vectors,
    load_weights_as_groups,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.tiles import (
    FMAS_TAKE_LANES,
    RegisterTile,
    choose_register_tile,
    loads_weights_as_groups,
    parallel_grain,
    split_for_cores,
)


def apply(sch: s_tir.Schedule, target: Target) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.matmul``; None for any other."""
    anchored = find_anchored(sch, "matmul")
    if anchored is None:
        return None
    *_, rows, blocks, lanes, depth = sch.get_loops(anchored.anchor)
    loops = sch.get_loops(anchored.output)
    if len(loops) < 2 or extent(sch, loops[-2]) != extent(sch, rows):
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    tile = choose_register_tile(
        target, extent(sch, rows), extent(sch, blocks), extent(sch, lanes), extent(sch, depth)
    )
    _tile(sch, target, anchored, tile, extent(sch, lanes))
    return {"template": "matmul", "decision": f"tile {tile.rows}x{tile.columns}"}


def _tile(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, tile: RegisterTile, lanes: int
) -> None:
    macs = iterations(sch, anchored.anchor)
    *batch, row, column = sch.get_loops(anchored.output)
    ragged = extent(sch, column) % (tile.columns * lanes) != 0
    row_outer, row_inner = sch.split(row, [None, tile.rows])
    tile_outer, tile_inner, lane = sch.split(column, [None, tile.columns, lanes])
    if not ragged:
        row_tiles = extent(sch, row_outer)
        tasks = math.prod(extent(sch, loop) for loop in (*batch, tile_outer))
        block = split_for_cores(target, row_tiles, row_tiles, tasks)
        row_block, row_outer = sch.split(row_outer, [None, block])
        batch.append(row_block)
    sch.reorder(*batch, tile_outer, row_outer, row_inner, tile_inner, lane)
    sch.compute_at(anchored.anchor, row_outer, preserve_unit_loops=True)
    partition_tail(sch, row_outer)
    *_, r, c, k, depth = sch.get_loops(anchored.anchor)
    if target.arch in FMAS_TAKE_LANES and extent(sch, depth) % lanes == 0:
        depth, step = sch.split(depth, [None, lanes])
        sch.reorder(depth, step, r, c, k)
        load_rows_as_vectors(sch, anchored.anchor, depth, step)
    elif loads_weights_as_groups(target, extent(sch, depth)):
        sch.reorder(depth, r, c, k)
        depth = load_weights_as_groups(sch, anchored.anchor, depth, c, [r, k])
    else:
        sch.reorder(depth, r, c, k)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(r)
    sch.vectorize(lane)
    sch.unroll(tile_inner)
    sch.unroll(row_inner)
    grain = parallel_grain(target)
    if ragged:
        _share_ragged(sch, batch, tile_outer, macs, grain)
    else:
        spread(sch, [*batch, tile_outer], macs, grain)
    sch.decompose_reduction(anchored.anchor, depth)


def _share_ragged(sch: s_tir.Schedule, batch: list, tile_outer, macs: int, grain: int) -> None:
    """Share the column tiles and split the last one off, or share whole matrices."""
    if math.prod(extent(sch, loop) for loop in batch) > 1:
        partition_tail(sch, tile_outer)
        spread(sch, batch, macs, grain)
    else:
        partition_tail(sch, spread(sch, [*batch, tile_outer], macs, grain))
