"""Direct convolution on packed layouts.

A tile of output pixels x output-channel vectors stays in registers while the reduction runs:

    parallel n, block of rows, oc_tile, oh
      ow_tile
        acc[rows][columns] = 0
        for ic_outer, kh, kw, ic_inner:
          acc[r][c] += broadcast(x[...]) * w[c][...]       (unrolled, one FMA each)
        epilogue over the tile

AArch64 has a nest of its own (``conv2d_lanes``), except for transposed convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import s_tir

from compiler.passes.packed_ops import GROUPS, PHASES
from compiler.target import Target
from schedules import conv2d_lanes
from schedules.blocks import (
    Anchored,
    Block,
    Loop,
    extent,
    find_anchored,
    iterations,
    load_rows_as_vectors,
    partition_tail,
    result_bits,
    schedule_stage,
    spread,
)
from schedules.choices import Chooser
from schedules.constants import is_constant
from schedules.dot_tiles import nearby_tiles
from schedules.tiles import (
    FMAS_TAKE_LANES,
    RegisterTile,
    TileProblem,
    choose_depth,
    choose_register_tile,
    choose_row_block,
    divisors,
    even_block,
    parallel_grain,
    split_for_cores,
    worth_sharing,
)
from schedules.weight_groups import load_groups, rearrange_weights

# Sums of a block of rows that lie in L1 beside what is multiplied.
MAX_SUM_BYTES = 8 * 1024


@dataclass(frozen=True)
class Decision:
    """What a tuner may choose.

    Args:
        tile: accumulators kept in registers.
        block: rows (of one long row: row tiles) finished for all columns before the next.
        depth: blocks of input channels summed up before the next pass over a block of rows; 0 for
            all at once.
    """

    tile: RegisterTile
    block: int
    depth: int = 0

    def __str__(self) -> str:
        text = f"tile {self.tile.rows}x{self.tile.columns}, block {self.block}"
        return f"{text}, depth {self.depth}" if self.depth else text


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose anchor is ``packed_ops.conv2d``; None for any other."""
    anchored = find_anchored(sch, "conv2d")
    if anchored is None or len(sch.get_loops(anchored.output)) != 5:
        return None
    for stage in anchored.stages:
        schedule_stage(sch, stage)
    if target.arch == "aarch64" and PHASES not in sch.get(anchored.anchor).annotations:
        decision = conv2d_lanes.schedule(sch, target, anchored, choose)
        return {"template": "conv2d", "decision": decision}
    return {"template": "conv2d", "decision": schedule(sch, target, anchored, choose)}


def schedule(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    choose: Chooser,
    by_part: bool = False,
) -> str:
    """Schedule an anchor of ``packed_ops.conv2d``; returns the decision.

    Args:
        by_part: each part of a batch is one task, which computes more than this convolution.
    """
    space = _Space.of(sch, target, anchored)
    if by_part:
        space = replace(space, tiling=replace(space.tiling, splits_columns=False), by_part=True)
    decision = choose(sch, space.default(), space.decisions())
    _tile(sch, target, anchored, decision, space)
    return str(decision)


@dataclass(frozen=True)
class _Space:
    """The decisions for one convolution.

    Args:
        tiling: of one row of the result.
        batch, height, blocks: of the result; height 1 for one long row of pixels.
        chunks: blocks of input channels.
        input_bytes: activations that are read.
        by_part: the parts of the batch are the tasks, and what they read lies in the cache.
    """

    target: Target
    tiling: TileProblem
    batch: int
    height: int
    blocks: int
    chunks: int
    input_bytes: int
    by_part: bool = False

    @staticmethod
    def of(sch: s_tir.Schedule, target: Target, anchored: Anchored) -> _Space:
        batch, blocks, height, width, lanes = (
            extent(sch, x) for x in sch.get_loops(anchored.output)
        )
        _, _, kw, channels = reduction = [
            int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:]
        ]
        depth = math.prod(reduction)
        annotations = sch.get(anchored.anchor).annotations
        groups = int(annotations.get(GROUPS, 1))
        phases = int(annotations.get(PHASES, 1))
        steps = reduction[_grouped_dimension(reduction) - 1]
        tiling = TileProblem(
            width,
            blocks // groups,  # a tile of two groups would share no inputs
            lanes,
            depth,
            neighbours_share=kw > 1 and channels == 1,
            phases=phases,
            # Guards break up its vector loads.
            even_columns=groups > 1 or target.arch in FMAS_TAKE_LANES,
            grouped_steps=steps if target.loads_register_groups and phases == 1 else 0,
            constant=is_constant(sch, anchored.anchor, 1),
            splits_columns=batch * height == 1,
            element_bits=result_bits(sch, anchored.anchor),
        )
        touched = _input_bytes(sch, anchored, height * width * depth)
        return _Space(target, tiling, batch, height, blocks, reduction[0], touched)

    def default(self) -> Decision:
        """Register tile first, then blocks for caches and cores."""
        tile = choose_register_tile(self.target, self.tiling)
        if self.height > 1:
            block = self._block(tile, self.height)
            return Decision(tile, block, self._depth(tile, block))
        # One long row (a 1x1 convolution's) is cut into blocks as several short ones are.
        width = self.tiling.rows
        rows = math.ceil(width / tile.rows)
        block = self._block(tile, rows)
        if block < rows and self._keeps_guard(tile):
            # A guard for the last tile cannot be split off inside blocks.
            grouped = self.tiling.grouped_steps > 0
            problem = replace(self.tiling, even_rows=True, even_columns=grouped)
            even = choose_register_tile(self.target, problem)
            if self._is_much_worse(even, tile):
                return Decision(tile, rows)
            tile, rows = even, width // even.rows
            block = self._block(tile, rows)
        return Decision(tile, block)

    def _keeps_guard(self, tile: RegisterTile) -> bool:
        """Whether the last tiles would be tested for in all blocks of one long row."""
        ragged = self.tiling.rows % tile.rows > 0
        if self.tiling.grouped_steps:
            one_column = self.batch * self.blocks <= tile.columns
            return self.blocks % tile.columns > 0 or (ragged and not one_column)
        return ragged

    def _is_much_worse(self, even: RegisterTile, tile: RegisterTile) -> bool:
        if self.tiling.grouped_steps:
            tasks = self.batch * math.ceil(self.blocks / tile.columns)
            affordable = worth_sharing(self.target, tasks) * self.tiling.cycles(self.target, tile)
            return self.tiling.cycles(self.target, even) > affordable
        return even.rows * even.columns * 2 < tile.rows * tile.columns

    def decisions(self) -> Iterator[Decision]:
        """The better half of the register tiles, with all blocks."""
        for tile in nearby_tiles(self.target, self.tiling):
            for block in self._blocks(tile):
                yield Decision(tile, block)
                if self.height > 1 and self._sum_bytes(tile, block) <= MAX_SUM_BYTES:
                    for depth in divisors(self.chunks)[:-1]:
                        yield Decision(tile, block, depth)

    def _blocks(self, tile: RegisterTile) -> list[int]:
        if self.height > 1:
            return divisors(self.height)
        if self.tiling.rows % tile.rows:
            return [math.ceil(self.tiling.rows / tile.rows)]
        return divisors(self.tiling.rows // tile.rows)

    def _block(self, tile: RegisterTile, rows: int) -> int:
        if self.by_part:
            return rows
        column_tiles = math.ceil(self.blocks / tile.columns)
        weights = self.tiling.depth * self.blocks * self._vector_bytes
        block = choose_row_block(self.target, self.input_bytes // rows, rows, weights, column_tiles)
        if self.height == 1:
            block = split_for_cores(self.target, rows, block, self.batch * column_tiles)
        return even_block(rows, block)

    def _depth(self, tile: RegisterTile, block: int) -> int:
        panel = self.tiling.depth * tile.columns * self._vector_bytes
        fits = self._sum_bytes(tile, block) <= MAX_SUM_BYTES
        return choose_depth(self.target, panel, self.chunks) if fits else 0

    def _sum_bytes(self, tile: RegisterTile, block: int) -> int:
        return block * self.tiling.rows * tile.columns * self._vector_bytes

    @property
    def _vector_bytes(self) -> int:
        """Of the channels of one block."""
        return self.tiling.width * self.tiling.element_bits // 8


def _input_bytes(sch: s_tir.Schedule, anchored: Anchored, values: int) -> int:
    """Bytes of the (padded) activations that are read: strides may leave out most of them."""
    shape = sch.get(anchored.anchor).reads[0].source.ty.shape
    return min(math.prod(int(d) for d in shape), values) * result_bits(sch, anchored.anchor) // 8


def _tile(
    sch: s_tir.Schedule,
    target: Target,
    anchored: Anchored,
    decision: Decision,
    space: _Space,
) -> None:
    macs, problem = iterations(sch, anchored.anchor), space.tiling
    dimension = _grouped_dimension(
        [int(v.dom.extent) for v in sch.get(anchored.anchor).iter_vars[5:]]
    )
    if decision.depth and dimension == 1:
        steps_of_pass = math.gcd(problem.grouped_steps, decision.depth)
        problem = replace(problem, grouped_steps=steps_of_pass)
    group = problem.group(decision.tile)
    if group and group.columns > 1:
        rearrange_weights(sch, anchored.anchor, dimension, decision.tile, group)
    n, oc, oh, ow, lane = sch.get_loops(anchored.output)
    one_row = extent(sch, oh) == 1
    oc_outer, oc_inner = sch.split(oc, [None, decision.tile.columns])
    ow_outer, ow_inner = sch.split(ow, [None, decision.tile.rows])
    row_block, row = sch.split(ow_outer if one_row else oh, [None, decision.block])
    alone = (extent(sch, row_block), extent(sch, oc_outer))
    if one_row:
        ow_outer = row
        sch.reorder(row_block, oc_outer, oh, ow_outer, ow_inner, oc_inner, lane)
    else:
        sch.reorder(row_block, oc_outer, row, ow_outer, ow_inner, oc_inner, lane)
    partition_tail(sch, ow_outer)
    if decision.depth:
        steps, passes = _sum_in_passes(sch, anchored.anchor, oc_outer, decision)
    else:
        steps = anchored.anchor
        sch.compute_at(steps, ow_outer, preserve_unit_loops=True)
    *_, c, _h, w, k, r_outer, kh, kw, r_inner = sch.get_loops(steps)
    reduction = [r_outer, kh, kw, r_inner]
    if group:
        reduction.append(reduction.pop(dimension - 1))
    sch.reorder(*reduction, w, c, k)
    if target.arch in FMAS_TAKE_LANES and extent(sch, r_inner) > 1:
        load_rows_as_vectors(sch, steps, kw, r_inner)
    if group:
        reduction[0] = load_groups(sch, steps, group, reduction, c, [w, k])
    else:
        sch.unroll(c)
    sch.vectorize(k)
    sch.unroll(w)
    sch.vectorize(lane)
    sch.unroll(oc_inner)
    sch.unroll(ow_inner)
    rows = [] if one_row or decision.depth else [row]
    parts = [n] if space.by_part else [n, row_block, oc_outer, *rows]
    tasks = spread(sch, parts, macs, parallel_grain(target, problem.element_bits))
    if problem.grouped_steps and not space.by_part and extent(sch, tasks) in alone:
        partition_tail(sch, tasks)
    sch.decompose_reduction(steps, reduction[0])
    if decision.depth:
        sch.decompose_reduction(anchored.anchor, passes)


def _grouped_dimension(reduction: list[int]) -> int:
    """Which dimension of the weights is the innermost of the reduction [ICb, KH, KW, ci]."""
    _, kh, kw, inner = reduction
    if inner > 1:
        return 4
    return 3 if kh * kw > 1 else 1


def _sum_in_passes(
    sch: s_tir.Schedule, anchor: Block, outer: Loop, decision: Decision
) -> tuple[Block, Loop]:
    """Sum a block of rows up pass by pass over the input channels, so that weights stay in L2.

    Returns:
        the block that computes one tile of one pass, and the loop over the passes.
    """
    *_, r_outer, _kh, _kw, _r_inner = sch.get_loops(anchor)
    passes, _ = sch.split(r_outer, [None, decision.depth])
    steps = sch.rfactor(passes, 0)
    sch.compute_at(anchor, outer, preserve_unit_loops=True)
    *_, passes, _n, c, h, w, k = sch.get_loops(anchor)
    w_outer, w_inner = sch.split(w, [None, decision.tile.rows])
    sch.reorder(passes, h, w_outer, w_inner, c, k)
    partition_tail(sch, w_outer)
    sch.compute_at(steps, w_outer, preserve_unit_loops=True)
    sch.vectorize(k)
    sch.unroll(c)
    sch.unroll(w_inner)
    return steps, passes
