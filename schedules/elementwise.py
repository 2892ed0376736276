"""Element-wise chains, broadcasts and data movement: one pass over memory.

All blocks are inlined into the one that stores; axes that are contiguous in every tensor are fused
and vectorised, the others run in parallel. Padding and concatenation cut the vectorised loop where
the source changes, so that each piece is a plain copy.
"""

from __future__ import annotations

from compiler.target import Target
from schedules.access import is_elementwise
from schedules.blocks import Schedule
from schedules.choices import Chooser
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function whose blocks are all element-wise; None for any other."""
    if not all(is_elementwise(sch, block) for block in kept_blocks(sch)):
        return None
    inline_cheap_blocks(sch)
    return schedule_stages(sch, target, "elementwise", choose)
