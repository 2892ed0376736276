"""Any function: inline what can be inlined, then vectorise and parallelise block by block.

A block that no rule fits keeps its loops as written, and the report names it as serial.
"""

from __future__ import annotations

from compiler.target import Target
from schedules.blocks import Schedule
from schedules.choices import Chooser
from schedules.nests import NestReport
from schedules.stages import inline_cheap_blocks, schedule_separately


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule whatever can be scheduled; nothing is left to choose."""
    report = NestReport()
    inline_cheap_blocks(sch)
    schedule_separately(sch, target, report, careful=True)
    return report.as_dict("generic")
