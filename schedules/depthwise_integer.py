"""Depthwise convolution of bytes, each sum one expression.

parallel n, channel_block, band of rows
  pad(band) into a buffer that stays in the cache
  for oh in band, (half of the block,) ow_tile
    results of the tile, unrolled: neighbours share what they load
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import Anchored, extent, find_anchored, iterations, partition_tail, spread
from schedules.choices import Chooser
from schedules.tiles import divisors, parallel_grain

MAX_ROWS = 4
# With so few registers a result is of half a block, so that nine weights stay in them.
FEW_REGISTERS = 16
# Products of a tap for one result cost about this many element operations.
WORK = 8


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        rows: neighbouring results of one piece of code.
        band: rows of a padded copy.
    """

    rows: int
    band: int

    def __str__(self) -> str:
        return f"tile {self.rows}, band {self.band}"


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule an anchor of ``integer_depthwise.depthwise_conv2d``; None for any other."""
    anchored = find_anchored(sch, "depthwise_integer")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    _, _, height, width, _ = (extent(sch, loop) for loop in sch.get_loops(anchored.output))
    default = Decision(_rows(target, width), _band(target, sch, anchored))

    def others() -> Iterator[Decision]:
        for rows in range(1, min(MAX_ROWS, width) + 1):
            for band in divisors(height):
                yield Decision(rows, band)

    decision = choose(sch, default, others())
    _tile(sch, target, anchored, decision)
    return {
        "template": "depthwise_integer",
        "decision": str(decision),
        "intrinsic": "neon_mlal",
    }


def _rows(target: Target, width: int) -> int:
    """A divisor where there is one: LLVM mixes a short row's last tile with the others, and spills.

    More than four neighbours share no more than they spill, and two do where registers are few.
    """
    if target.vector.registers <= FEW_REGISTERS:
        return 1
    even = max(t for t in range(1, min(MAX_ROWS, width) + 1) if width % t == 0)
    return even if even > 1 or width < 4 * MAX_ROWS else MAX_ROWS


def _band(target: Target, sch: s_tir.Schedule, anchored: Anchored) -> int:
    """Output rows of a band: its padded input takes at most half of L1."""
    height = extent(sch, sch.get_loops(anchored.output)[2])
    if not anchored.stages:
        return height
    _, _, rows, width, lanes = (int(v.dom.extent) for v in sch.get(anchored.stages[-1]).iter_vars)
    affordable = target.caches.l1d // 2 * height // (rows * width * lanes)
    return max(b for b in divisors(height) if b <= max(1, affordable))


def _tile(sch: s_tir.Schedule, target: Target, anchored: Anchored, decision: Decision) -> None:
    if not sch.get(anchored.anchor).same_as(sch.get(anchored.output)):
        sch.compute_inline(anchored.anchor)
    work = iterations(sch, anchored.output) * WORK
    n, block, oh, ow, lane = sch.get_loops(anchored.output)
    band, _ = sch.split(oh, [None, decision.band])
    ow_outer, ow_inner = sch.split(ow, [None, decision.rows])
    partition_tail(sch, ow_outer)
    outer = spread(sch, [n, block, band], work, parallel_grain(target))
    for stage in reversed(anchored.stages):
        sch.compute_at(stage, outer, preserve_unit_loops=True)
        *_, column, stage_lane = sch.get_loops(stage)
        sch.vectorize(stage_lane)
        partition_tail(sch, column)
    if target.vector.registers <= FEW_REGISTERS:
        half, lane = sch.split(lane, [2, None])
        sch.reorder(half, ow_outer, ow_inner, lane)
    sch.vectorize(lane)
    sch.unroll(ow_inner)
