"""Windowed maxima and averages, over NCHW and packed NCHW[c]c activations.

Packed: lanes are channels. Unpacked: lanes are neighbouring columns. The window's taps are
unrolled, and the result stays in registers until the epilogue stores it. Padding is a condition of
the tap; rows and columns are cut at the borders, so that the inside has none.
"""

from __future__ import annotations

from compiler.target import Target
from schedules.access import axes_of, is_reduction
from schedules.blocks import Block, Schedule
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target) -> dict[str, str] | None:
    """Schedule a function with one windowed reduction of one tensor; None for any other."""
    reductions = [block for block in kept_blocks(sch) if is_reduction(sch, block)]
    if len(reductions) != 1 or not _is_windowed(sch, reductions[0]):
        return None
    inline_cheap_blocks(sch)
    return schedule_stages(sch, target, "pooling")


def _is_windowed(sch: Schedule, block: Block) -> bool:
    """Whether some spatial axis slides along the same dimension as a reducing one."""
    axes = axes_of(sch, block)
    if any(len(a.loads) != 1 for a in axes):
        return False
    spatial = {a.loads[0] for a in axes if not a.reduces and a.extent > 1 and a.loads[0]}
    taps = {a.loads[0] for a in axes if a.reduces and a.extent > 1 and a.loads[0]}
    return any(s % t == 0 and s // t <= 8 for s in spatial for t in taps)
