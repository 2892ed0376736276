"""The right operand of a product, packed at run time for products of groups of bytes.

parallel batch, block of columns
  step
    column: one copy of a group           (where its neighbours are neighbours before)
    a vector of each row, interleaved     (where they are not)
"""

from __future__ import annotations

from compiler.passes.pack_products import WHOLE_BLOCKS, WHOLE_GROUPS
from compiler.target import Target
from schedules.blocks import PARALLEL_GRAIN, Schedule, extent, iterations
from schedules.choices import Chooser
from schedules.intrinsics.interleave import interleave


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule ``pack_products.pack_columns``; None for any other function."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if len(blocks) != 2 or WHOLE_GROUPS not in sch.get(blocks[1]).annotations:
        return None
    rows, packed = blocks
    facts = sch.get(packed).annotations
    work = iterations(sch, packed)
    *outer, step, lane, group = sch.get_loops(packed)
    task = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    shared = work >= PARALLEL_GRAIN and extent(sch, task) > 1 and target.cores > 1
    if shared:
        sch.parallel(task)
    if int(facts[WHOLE_GROUPS]):
        sch.compute_inline(rows)
        sch.vectorize(group)
        sch.unroll(lane)
    else:
        sch.compute_at(rows, step, preserve_unit_loops=True)
        *_, row, column = sch.get_loops(rows)
        sch.unroll(row)
        if int(facts[WHOLE_BLOCKS]):
            sch.vectorize(column)
        sch.tensorize(lane, interleave(extent(sch, group), extent(sch, lane)))
    return {"template": "product_columns", "parallel": "yes" if shared else "no"}
