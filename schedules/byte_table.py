"""Bytes looked up in a table of 256: one pass over memory, whatever the shape.

parallel task
  table in registers
  vector of bytes: looked up, stored        (where the target has instructions for it)
  bytes: looked up, stored                  (elsewhere)
"""

from __future__ import annotations

import math

from compiler.codegen.vector_loops import LANES, TASKS, VECTORIZE
from compiler.passes.byte_tables import ATTRIBUTE
from compiler.target import Target
from schedules.blocks import PARALLEL_GRAIN, Schedule, extent
from schedules.choices import Chooser
from schedules.intrinsics.byte_table import byte_table
from schedules.stages import kept_blocks

# Bytes in one step of a loop at most.
UNROLLED = 8


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule ``byte_tables.look_up``; None for any other function."""
    if not (sch.mod["main"].attrs or {}).get(ATTRIBUTE):
        return None
    (block,) = kept_blocks(sch)
    loops = sch.get_loops(block)
    if not loops:
        return {"template": "byte_table", "parallel": "no"}
    loop = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    tasks = min(2 * target.cores, extent(sch, loop) // PARALLEL_GRAIN) if target.cores > 1 else 1
    instructions = byte_table(target)
    if instructions is not None:
        sch.annotate(loop, VECTORIZE, instructions.together * instructions.lanes)
        sch.annotate(loop, LANES, instructions.lanes)
        if tasks > 1:
            sch.annotate(loop, TASKS, tasks)
    else:
        outer, inner = sch.split(loop, [None, math.gcd(UNROLLED, extent(sch, loop))])
        if tasks > 1:
            sch.parallel(outer)
        sch.unroll(inner)
    report = {"template": "byte_table", "parallel": "yes" if tasks > 1 else "no"}
    return report if instructions is None else {**report, "intrinsic": instructions.name}
