"""Depthwise convolution on packed layouts: bound by memory, so by how often a row is loaded.

parallel n, channel_block
  for oh, ow_tile                             (tiles at the borders have code of their own)
    acc[rows] = sum over kh, kw of x * w      (kh, kw unrolled; loads shared by neighbours)
    epilogue over the tile

or, where there are fewer channel blocks than cores,

parallel n, channel_block, band of rows
  pad(band) into a buffer that stays in the cache
  for oh in band, ow_tile ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.codegen.vector_loops import BRANCH, CUT
from compiler.target import Target
from schedules.blocks import (
    Anchored,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    result_bits,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.tiles import divisors, parallel_grain

MAX_UNROLLED_TAPS = 9
MAX_TILE = 8
# Windows up to this size read the picture itself, with copies of the code for its borders.
MAX_CUT_TAPS = 25


@dataclass(frozen=True)
class RowTile:
    """Neighbours along a row whose results are accumulated in registers."""

    rows: int


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        tile: results kept in registers.
        band: rows of a padded copy; 0 where the taps read the picture itself.
    """

    tile: RowTile
    band: int

    def __str__(self) -> str:
        return f"tile {self.tile.rows}, " + (f"band {self.band}" if self.band else "no copy")


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.depthwise_conv2d``; None for any other."""
    anchored = find_anchored(sch, "depthwise")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    _, _, oh, ow, lane = sch.get_loops(anchored.output)
    taps = [int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:]]
    width, height = extent(sch, ow), extent(sch, oh)
    # Read in place and without vectors, each lane is a picture of its own, whose weights stay in
    # registers.
    single = 1 if target.vector.bits == 0 else extent(sch, lane)
    in_place = _reads_in_place(sch, target, anchored, taps)
    stride = max(1, int(sch.get(anchored.anchor).reads[0].source.ty.shape[3]) // width)
    window = (taps[0] * taps[1], taps[1], stride)
    lanes = single if in_place else extent(sch, lane)
    bits = result_bits(sch, anchored.anchor)
    most = _most_rows(target, width, lanes, window, bits)
    default = Decision(
        RowTile(choose_row_tile(target, width, lanes, most, bits)),
        0 if in_place else choose_band(target, sch, anchored),
    )

    def others() -> Iterator[Decision]:
        for rows in row_tiles(target, width, single, bits):
            if taps[0] * taps[1] <= MAX_CUT_TAPS:
                yield Decision(RowTile(rows), 0)
            for band in divisors(height):
                yield Decision(RowTile(rows), band)

    decision = choose(sch, default, others())
    if decision.band:
        _tile(sch, target, anchored, decision.tile.rows, decision.band, taps)
    else:
        _tile_without_copy(sch, target, anchored, decision.tile.rows, taps)
    return {"template": "depthwise", "decision": str(decision)}


def _reads_in_place(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, taps: list[int]
) -> bool:
    """Whether taps read the picture itself rather than a padded copy of a band."""
    if taps[0] * taps[1] > MAX_CUT_TAPS:
        return False
    n, blocks, *_ = (extent(sch, loop) for loop in sch.get_loops(anchored.output))
    # Only whole planes can be shared among cores.
    small = iterations(sch, anchored.anchor) < parallel_grain(target)
    return small or n * blocks >= target.cores


def _reads_memory(target: Target) -> bool:
    """Whether multiply-adds take inputs from memory, so that these need no registers."""
    return target.arch == "x86_64" and target.vector.fma


def _most_rows(
    target: Target, width: int, lanes: int, window: tuple[int, int, int], bits: int
) -> int:
    """Accumulators that leave registers to a row of the window's inputs, which neighbours share.

    Args:
        window: taps of it all, and taps and stride along the row.
    """
    taps, row_taps, stride = window
    # In a loop over a window's rows, more tiles of a short row cost more than a spilled input.
    if _reads_memory(target) or (taps > MAX_UNROLLED_TAPS and width <= 2 * MAX_TILE):
        return MAX_TILE
    registers = target.vector.registers // registers_of(target, lanes, bits)
    return max(1, (registers + stride - row_taps) // (1 + stride))


def choose_row_tile(
    target: Target, width: int, lanes: int, most: int = MAX_TILE, bits: int = 32
) -> int:
    """Accumulators along a row: as many as leave half the registers to inputs and weights."""
    # Fewest tiles first, then the least waste in the last one.
    return min(
        (t for t in row_tiles(target, width, lanes, bits) if t <= most),
        key=lambda t: (math.ceil(width / t), math.ceil(width / t) * t),
    )


def row_tiles(target: Target, width: int, lanes: int, bits: int = 32) -> range:
    """Numbers of accumulators that leave registers to inputs and weights."""
    registers = registers_of(target, lanes, bits)
    most = max(1, min(MAX_TILE, target.vector.registers // (2 * registers), width))
    return range(1, most + 1)


def registers_of(target: Target, lanes: int, bits: int) -> int:
    """Vector registers of so many elements."""
    return max(1, math.ceil(lanes / target.vector.lanes(bits)))


def choose_band(target: Target, sch: s_tir.Schedule, anchored: Anchored) -> int:
    """Output rows of a band: its padded input takes at most a quarter of L2."""
    height = extent(sch, sch.get_loops(anchored.output)[2])
    if not anchored.stages:
        return height
    _, _, rows, width, lanes = (int(v.dom.extent) for v in sch.get(anchored.stages[-1]).iter_vars)
    budget = (target.caches.l2 or target.caches.l1d) // 4
    element_bytes = result_bits(sch, anchored.anchor) // 8
    affordable = max(1, budget * height // (rows * width * lanes * element_bytes))
    most = min(affordable, height)
    even = max(b for b in range(1, most + 1) if height % b == 0)
    # TVM bounds the buffer of a ragged band poorly: better somewhat more bands of equal height.
    return even if 2 * even >= most else math.ceil(height / math.ceil(height / most))


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    rows: int,
    band: int,
    taps: list[int],
) -> None:
    n, block, oh, ow, lane = sch.get_loops(anchored.output)
    work = iterations(sch, anchored.anchor)
    band_outer, oh_inner = sch.split(oh, [None, band])
    ow_outer, ow_inner = sch.split(ow, [None, rows])
    sch.reorder(n, block, band_outer, oh_inner, ow_outer, ow_inner, lane)
    outer = sch.fuse(n, block, band_outer)
    sch.compute_at(anchored.anchor, ow_outer, preserve_unit_loops=True)
    partition_tail(sch, ow_outer)
    for stage in reversed(anchored.stages):
        sch.compute_at(stage, outer, preserve_unit_loops=True)
        *_, stage_w, stage_lane = sch.get_loops(stage)
        sch.vectorize(stage_lane)
        partition_tail(sch, stage_w)
    *_, w, k, kh, kw = sch.get_loops(anchored.anchor)
    sch.reorder(kh, kw, w, k)
    sch.vectorize(k)
    sch.unroll(w)
    sch.unroll(kw)
    if taps[0] * taps[1] <= MAX_UNROLLED_TAPS:
        sch.unroll(kh)
    sch.vectorize(lane)
    sch.unroll(ow_inner)
    spread(sch, [outer], work, parallel_grain(target))
    sch.decompose_reduction(anchored.anchor, kh)


def _tile_without_copy(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, rows: int, taps: list[int]
) -> None:
    n, block, oh, *_ = sch.get_loops(anchored.output)
    work = iterations(sch, anchored.anchor)
    height = extent(sch, oh)
    tasks = sch.fuse(n, block)
    if work >= parallel_grain(target) and extent(sch, tasks) > 1:
        sch.parallel(tasks)
    schedule_in_place(sch, target, anchored, rows, taps, height)


def schedule_in_place(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    rows: int,
    taps: list[int],
    height: int,
) -> None:
    """Padding becomes a condition of each tap; rows and tiles at the borders get their own code.

    Args:
        height: rows of the whole result, of which the loops may be over a block.
    """
    for stage in anchored.stages:
        if sch.get(stage).name_hint == "pad":
            sch.compute_inline(stage)
        else:
            schedule_stage(sch, stage)
    *_, oh, ow, lane = sch.get_loops(anchored.output)
    ow_outer, ow_inner = sch.split(ow, [None, rows])
    whole = extent(sch, oh) == height
    strips = whole and _goes_in_strips(sch, target, anchored, extent(sch, ow_outer))
    if strips:
        sch.reorder(ow_outer, oh, ow_inner)
    if target.vector.bits:
        sch.vectorize(lane)
    else:
        sch.reorder(lane, ow_outer, ow_inner)
    sch.compute_at(anchored.anchor, oh if strips else ow_outer, preserve_unit_loops=True)
    *_, w, k, kh, kw = sch.get_loops(anchored.anchor)
    sch.reorder(kh, kw, w, k)
    sch.vectorize(k)
    for loop in (w, kw, ow_inner):
        sch.unroll(loop)
    if target.arch == "aarch64" or taps[0] * taps[1] <= MAX_UNROLLED_TAPS:
        sch.unroll(kh)
    if whole:
        sch.annotate(oh, CUT, 1)
    else:
        sch.annotate(oh, BRANCH, height)
    sch.annotate(ow_outer, CUT, 1)
    sch.decompose_reduction(anchored.anchor, kh)


def _goes_in_strips(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, column_tiles: int
) -> bool:
    """Whether all rows of one tile come before the next tile.

    Both tiles of a short row are one piece of code, in which LLVM keeps the inputs that they share
    and spills them. Strips of a plane in L1 cost nothing, but RISC-V counts more addresses.
    """
    if column_tiles != 2 or not target.vector.bits:
        return False
    if _reads_memory(target) or target.arch == "riscv64":
        return False
    plane = sch.get(anchored.anchor).reads[0].source.ty.shape[2:]
    element_bytes = result_bits(sch, anchored.anchor) // 8
    return element_bytes * math.prod(int(d) for d in plane) <= target.caches.l1d // 4
