"""Sums, means, products, minima and maxima over any axes.

Where neighbouring results read neighbouring elements, each lane reduces for itself; where the
reduced axis is the contiguous one, vector accumulators run along it and are added at the end.
"""

from __future__ import annotations

from tvm import tirx

from compiler.target import Target
from schedules.access import is_reduction
from schedules.blocks import Block, Schedule
from schedules.choices import Chooser
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function with exactly one reduction; None for any other."""
    if sum(is_reduction(sch, block) for block in kept_blocks(sch)) != 1:
        return None
    inline_cheap_blocks(sch)
    return schedule_stages(sch, target, "reduction", choose)


def combiner(sch: Schedule, block: Block) -> type | None:
    """The operator class of a reduction (tirx.Add, tirx.Max, ...), the first one's of a tuple."""
    body = sch.get(block).body
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    value = statements[0].value
    known = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)
    return type(value) if isinstance(value, known) else None
