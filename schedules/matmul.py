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
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.tiles import RegisterTile, choose_register_tile


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
    columns = extent(sch, column)
    row_outer, row_inner = sch.split(row, [None, tile.rows])
    tile_outer, tile_inner, lane = sch.split(column, [None, tile.columns, lanes])
    sch.reorder(*batch, tile_outer, row_outer, row_inner, tile_inner, lane)
    sch.compute_at(anchored.anchor, row_outer, preserve_unit_loops=True)
    partition_tail(sch, row_outer)
    *_, r, c, k, depth = sch.get_loops(anchored.anchor)
    if target.arch == "aarch64" and extent(sch, depth) % lanes == 0:
        depth, step = sch.split(depth, [None, lanes])
        sch.reorder(depth, step, r, c, k)
        load_rows_as_vectors(sch, anchored.anchor, depth, step)
    else:
        sch.reorder(depth, r, c, k)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(r)
    sch.vectorize(lane)
    sch.unroll(tile_inner)
    sch.unroll(row_inner)
    _parallelise(sch, batch, tile_outer, macs, ragged=columns % (tile.columns * lanes) != 0)
    sch.decompose_reduction(anchored.anchor, depth)


def _parallelise(sch: s_tir.Schedule, batch: list, tile_outer, macs: int, ragged: bool) -> None:
    """Share the column tiles, or where the last one is ragged, rather whole matrices."""
    matrices = math.prod(extent(sch, loop) for loop in batch)
    if ragged and matrices > 1:
        partition_tail(sch, tile_outer)
        spread(sch, batch, macs)
        return
    shared = spread(sch, [*batch, tile_outer], macs)
    if ragged:
        partition_tail(sch, shared)
