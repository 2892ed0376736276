"""Softmax and log-softmax: maximum, exponentials, their sum and the quotient, row by row."""

from __future__ import annotations

from tvm import tirx

from compiler.target import Target
from schedules.access import calls, is_reduction
from schedules.blocks import Schedule
from schedules.choices import Chooser
from schedules.reduction import combiner
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function with a maximum, a sum and exponentials; None for any other."""
    blocks = kept_blocks(sch)
    kinds = [combiner(sch, block) for block in blocks if is_reduction(sch, block)]
    if kinds != [tirx.Max, tirx.Add] or not any("exp" in calls(sch, b) for b in blocks):
        return None
    inline_cheap_blocks(sch)
    return schedule_stages(sch, target, "softmax", choose)
