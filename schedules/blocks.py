"""What all templates share: finding the anchor, inlining what surrounds it, loop helpers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import tvm
from tvm import s_tir, tirx

from compiler.passes.integer_ops import LANES
from compiler.passes.packed_ops import ANCHOR
from schedules.tiles import GROUPED_STEPS, RegisterTile

Schedule: TypeAlias = s_tir.Schedule
Block: TypeAlias = s_tir.schedule.SBlockRV
Loop: TypeAlias = s_tir.schedule.LoopRV

# Element operations below which waking another thread costs more than it saves.
PARALLEL_GRAIN = 1 << 15


@dataclass
class Anchored:
    """An anchor block, the stages that feed it, and the one block that stores its result."""

    anchor: Block
    output: Block
    stages: list[Block]  # producers that stay materialised, in execution order


def split_gathered_lanes(sch: Schedule) -> None:
    """Let a result whose blocks gather the lanes of several be computed by the smaller blocks.

    before:  for j, h, w, k (16):      y[j, h, w, k] = f(x[(16 j + k) / 4, h, w, k % 4])
    after:   for j, h, w, k (4):       y[j / 4, h, w, j % 4 * 4 + k] = f(x[j, h, w, k])
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    lanes = [int(sch.get(b).annotations.get(LANES, 0)) for b in blocks]
    if not any(lanes):
        return
    output, c = blocks[-1], max(lanes)
    extents = [int(v.dom.extent) for v in sch.get(output).iter_vars]
    if len(extents) == 5 and extents[-1] > c and extents[-1] % c == 0:
        parts = extents[-1] // c
        sch.transform_block_layout(
            output, lambda i, j, h, w, k: (i, j * parts + k // c, h, w, k % c)
        )


def find_anchored(sch: Schedule, kind: str, reductions: tuple[str, ...] = ()) -> Anchored | None:
    """Find the anchor of a kind and inline all else but its padded or packed inputs.

    Args:
        reductions: names of inputs that may be sums.

    The result's ``output`` is the epilogue, or a copy out of a local accumulator where the
    anchor's result is the function's.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    anchors = [b for b in blocks if sch.get(b).annotations.get(ANCHOR) == kind]
    if len(anchors) != 1:
        return None
    anchor = anchors[0]
    position = next(i for i, b in enumerate(blocks) if sch.get(b).same_as(sch.get(anchor)))
    stages = blocks[:position]
    epilogue = blocks[position + 1 :]
    summed = [b for b in (*stages, *epilogue) if _has_reduction(sch, b)]
    if any(sch.get(b).name_hint not in reductions for b in summed):
        return None
    for block in epilogue[:-1]:
        sch.compute_inline(block)
    output = epilogue[-1] if epilogue else sch.cache_write(anchor, 0, "global")
    if len(sch.get(output).iter_vars) == 0:
        return None
    return Anchored(anchor, output, stages)


def _has_reduction(sch: Schedule, block: Block) -> bool:
    return any(v.iter_type == tirx.IterVar.CommReduce for v in sch.get(block).iter_vars)


def extent(sch: Schedule, loop: Loop) -> int:
    """The constant extent of a loop."""
    return int(sch.get(loop).extent)


def iterations(sch: Schedule, block: Block) -> int:
    """How often the body of a block runs."""
    return math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars)


def result_bits(sch: Schedule, block: Block) -> int:
    """Bits of an element of what a block stores: of an anchor, those of its accumulators."""
    return tvm.DataType(str(sch.get(block).writes[0].source.ty.dtype)).bits


def element_bytes(dtype: object) -> int:
    """Of one element in memory."""
    return tvm.DataType(str(dtype)).bits // 8


def partition_tail(sch: Schedule, loop: Loop) -> None:
    """Ask for a separate copy of the ragged last iteration, so that the others need no test."""
    sch.annotate(loop, "pragma_loop_partition_hint", 1)


def spread(sch: Schedule, loops: list[Loop], work: int, grain: int = PARALLEL_GRAIN) -> Loop:
    """Fuse loops into one and run it on all threads where the work is worth it."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    if work >= grain and extent(sch, fused) > 1:
        sch.parallel(fused)
    return fused


def load_rows_as_vectors(sch: Schedule, anchor: Block, outer: Loop, inner: Loop) -> None:
    """Load the values that ``inner`` steps of the reduction broadcast as one vector a row.

    Worth it where multiply-adds can take one lane of a vector as their scalar.
    """
    rows = sch.cache_read(anchor, 0, "local")
    around = len(sch.get_loops(anchor)) - len(_inside(sch, anchor, outer))
    sch.compute_at(rows, outer, preserve_unit_loops=True)
    *loops, lane = sch.get_loops(rows)[around:]
    sch.vectorize(lane)
    for loop in (*loops, inner):
        # Rows of tiles are as many as a tile happens to touch where it does not divide them.
        if isinstance(sch.get(loop).extent, tirx.IntImm):
            sch.unroll(loop)


def _inside(sch: Schedule, block: Block, outer: Loop) -> list[Loop]:
    """The loops around a block that lie inside of one of them."""
    loops = sch.get_loops(block)
    position = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(outer)))
    return loops[position + 1 :]


def load_weights_as_groups(
    sch: Schedule, anchor: Block, depth: Loop, columns: Loop, tile: list[Loop]
) -> Loop:
    """Load a column's weights of several steps of the reduction at once, into a register group.

        before:  for k, column, row, lane:           acc += x * w[column, k, lane]
        after:   for k / 4, column:
                   group[4, lanes] = w[column, ...]
                   for k % 4, row, lane:             acc += x * group[k % 4, lane]

    Returns the outer loop of the reduction.
    """
    outer, step = sch.split(depth, [None, GROUPED_STEPS])
    sch.reorder(outer, columns, step, *tile)
    group = sch.cache_read(anchor, 1, "local")
    sch.compute_at(group, columns, preserve_unit_loops=True)
    *_, steps, lanes = sch.get_loops(group)
    sch.vectorize(sch.fuse(steps, lanes))
    sch.unroll(step)
    if extent(sch, outer) == 2:
        sch.unroll(outer)
    return outer


def load_neighbours(
    sch: Schedule, anchor: Block, depth: Loop, vectors: int, tile: RegisterTile, inner: list[Loop]
) -> None:
    """Load all columns' weights of one or more steps of the reduction before they are used.

        before:  for k, row, column, lane:         acc += x * w[k, column, lane]
        after:   for k / s:
                   group[s, column, lane] = w[...]
                   for k % s, row, column, lane:   acc += x * group[k % s, column, lane]

    Worth it where weights lie in the order of their use: code generation finds loads that follow
    each other and makes groups of them (``codegen/load_groups.py``).
    """
    outer, step = sch.split(depth, [None, max(1, vectors // tile.columns)])
    sch.reorder(outer, step, *inner)
    group = sch.cache_read(anchor, 1, "local")
    sch.compute_at(group, outer, preserve_unit_loops=True)
    *_, steps, column, lane = sch.get_loops(group)
    sch.vectorize(lane)
    for loop in (steps, column, step, outer):
        sch.unroll(loop)


def schedule_stage(sch: Schedule, block: Block) -> None:
    """A stage computed whole before the anchor: innermost axis in vectors, the rest in parallel."""
    work = iterations(sch, block)
    if not sch.get_loops(block):  # one number
        return
    *outer, inner = sch.get_loops(block)
    if extent(sch, inner) > 1:
        sch.vectorize(inner)
    elif len(outer) > 1:
        # One channel at a time: LLVM vectorises the copy once the padding is split off.
        partition_tail(sch, outer.pop())
    if outer:
        spread(sch, outer, work)
