"""Phases of a transposed convolution of bytes, side by side: a copy of whole blocks.

parallel row of the result
  step of a stride along it
    column phase (unrolled): a vector of channels
"""

from __future__ import annotations

from compiler.passes.packed_ops import PHASES
from compiler.target import Target
from schedules.blocks import PARALLEL_GRAIN, Schedule, extent, iterations, partition_tail
from schedules.choices import Chooser
from schedules.stages import inline_cheap_blocks, kept_blocks


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule ``interleave_blocks`` and what is computed of each element; None for others."""
    blocks = kept_blocks(sch)
    if not blocks or sch.get(blocks[0]).name_hint != "interleave_blocks":
        return None
    stride = int(sch.get(blocks[0]).annotations[PHASES])
    inline_cheap_blocks(sch)
    block, *others = kept_blocks(sch)
    loops = sch.get_loops(block)
    if others or len(loops) != 5:
        return None
    *rows, column, lane = loops
    row = sch.fuse(*rows)
    ragged = extent(sch, column) % stride > 0
    step, phase = sch.split(column, [None, stride])
    if ragged and extent(sch, step) > 1:
        partition_tail(sch, step)
    sch.unroll(phase)
    sch.vectorize(lane)
    shared = iterations(sch, block) >= PARALLEL_GRAIN and extent(sch, row) > 1 and target.cores > 1
    if shared:
        sch.parallel(row)
    return {"template": "interleave", "parallel": "yes" if shared else "no"}
