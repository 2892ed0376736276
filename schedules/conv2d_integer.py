"""Convolution of bytes: sums in int32 registers, requantised in the epilogue.

parallel n, block of rows, oc_tile, oh
  ow_tile
    acc[rows][columns] = 0
    for step, kh, kw:
      acc[r][c] = dot(acc[r][c], x[r], w[c])           (unrolled)
    epilogue over the tile
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm import s_tir

from compiler.passes.packed_ops import GROUPS
from compiler.target import Target
from schedules import conv2d_integer_lanes
from schedules.blocks import (
    Anchored,
    extent,
    find_anchored,
    iterations,
    partition_tail,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.dot_tiles import DotProblem, nearby_tiles
from schedules.dots import find_dot, order_dots, use_intrinsic
from schedules.intrinsics.dot import Dot
from schedules.tiles import (
    RegisterTile,
    choose_row_block,
    divisors,
    even_block,
    parallel_grain,
    split_for_cores,
)


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        tile: sums kept in registers; a column is one block of output channels.
        block: rows (of one long row: row tiles) finished for all columns before the next.
    """

    tile: RegisterTile
    block: int

    def __str__(self) -> str:
        return f"tile {self.tile.rows}x{self.tile.columns}, block {self.block}"


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``integer_ops.conv2d``; None for any other."""
    anchored = find_anchored(sch, "conv2d_integer")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    dot = find_dot(sch, target, anchored.anchor)
    if dot is None:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    if target.arch in ("aarch64", "arm"):
        decision = conv2d_integer_lanes.schedule(sch, target, anchored, dot, choose)
    else:
        decision = _schedule(sch, target, anchored, dot, choose)
    return {
        "template": "conv2d_integer",
        "decision": decision,
        "intrinsic": dot.name.removeprefix("edgecc."),
    }


def _schedule(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, dot: Dot, choose: Chooser
) -> str:
    space = Space.of(sch, target, anchored, dot)
    decision = choose(sch, space.default(), space.decisions())
    _tile(sch, target, anchored, dot, decision)
    return str(decision)


class EvenColumns(DotProblem):
    """A ragged last tile of columns would put a test around each of its products in all tiles."""

    def tiles(self, target: Target) -> Iterator[RegisterTile]:
        """Those that divide the columns."""
        return (t for t in super().tiles(target) if self.columns % t.columns == 0)


@dataclass(frozen=True)
class Space:
    """The decisions for one convolution.

    Args:
        tiling: of one row of the result.
        batch, height, blocks: of the result; height 1 for one long row of pixels.
        input_bytes: activations that are read.
    """

    target: Target
    tiling: DotProblem
    batch: int
    height: int
    input_bytes: int

    @staticmethod
    def of(
        sch: s_tir.Schedule,
        target: Target,
        anchored: Anchored,
        dot: Dot,
        problem: type[DotProblem] = EvenColumns,
    ) -> Space:
        """The space of an anchor, whose register tiles are those of ``problem``."""
        batch, blocks, height, width, lanes = (
            extent(sch, x) for x in sch.get_loops(anchored.output)
        )
        reduction = [int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:]]
        step = reduction[3]
        groups = int(sch.get(anchored.anchor).annotations.get(GROUPS, 1))
        steps = math.prod(reduction) // step
        tiling = problem(dot, width, blocks, lanes, steps, step, groups)
        source = sch.get(anchored.anchor).reads[0].source.ty
        touched = math.prod(int(d) for d in source.shape) * (2 if "16" in str(source.dtype) else 1)
        return Space(target, tiling, batch, height, touched)

    def default(self) -> Decision:
        """Register tile first, then blocks for caches and cores."""
        tile = self.tiling.best(self.target)
        if self.height > 1:
            return Decision(tile, self._block(tile, self.height))
        width = self.tiling.rows
        rows = math.ceil(width / tile.rows)
        block = self._block(tile, rows)
        if block < rows and width % tile.rows:
            # A guard for the last tile cannot be split off inside blocks.
            even = self.tiling.best(self.target, even_rows=True)
            if self.tiling.is_much_worse(self.target, even, tile, self.batch):
                return Decision(tile, rows)
            tile, rows = even, width // even.rows
            block = self._block(tile, rows)
        return Decision(tile, block)

    def decisions(self) -> Iterator[Decision]:
        """The better half of the register tiles, with all blocks."""
        for tile in nearby_tiles(self.target, self.tiling):
            for block in self._blocks(tile):
                yield Decision(tile, block)

    def _blocks(self, tile: RegisterTile) -> list[int]:
        if self.height > 1:
            return divisors(self.height)
        if self.tiling.rows % tile.rows:
            return [math.ceil(self.tiling.rows / tile.rows)]
        return divisors(self.tiling.rows // tile.rows)

    def _block(self, tile: RegisterTile, rows: int) -> int:
        columns = math.ceil(self.tiling.columns / tile.columns)
        weights = self.tiling.weight_bytes * self.tiling.columns
        block = choose_row_block(self.target, self.input_bytes // rows, rows, weights, columns)
        if self.height == 1:
            block = split_for_cores(self.target, rows, block, self.batch * columns)
        return even_block(rows, block)


def _tile(
    sch: s_tir.Schedule, target: Target, anchored: Anchored, dot: Dot, decision: Decision
) -> None:
    macs = iterations(sch, anchored.anchor)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    one_row = extent(sch, oh) == 1
    oc_outer, oc_inner = sch.split(oc, [None, decision.tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, decision.tile.rows])
    row_block, row = sch.split(ow_outer if one_row else oh, [None, decision.block])
    if one_row:
        ow_outer = row
        sch.reorder(row_block, oc_outer, oh, ow_outer, ow_inner, oc_inner, lane)
    else:
        sch.reorder(row_block, oc_outer, row, ow_outer, ow_inner, oc_inner, lane)
    partition_tail(sch, ow_outer)
    sch.compute_at(anchored.anchor, ow_outer, preserve_unit_loops=True)
    *_, c, _h, w, k, step, kh, kw, inner = sch.get_loops(anchored.anchor)
    order_dots(sch, dot, [step, kh, kw], [w, c, k], inner)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    rows = [] if one_row else [row]
    spread(sch, [n, row_block, oc_outer, *rows], macs, parallel_grain(target))
    use_intrinsic(sch, anchored.anchor, dot.name, step)
