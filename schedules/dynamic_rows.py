"""Rows quantised by their own range: the range, then the integers, while the row is in L1.

parallel row
  low, high = extremes of the row         (vector accumulators)
  scale, shift
  integers                                (vectors: scaled, rounded, narrowed with saturation)
"""

from __future__ import annotations

from compiler.codegen.vector_loops import LANES, VECTORIZE
from compiler.quantize.dynamic import ATTRIBUTE
from compiler.target import Target
from schedules.blocks import PARALLEL_GRAIN, Schedule, extent, iterations
from schedules.choices import Chooser
from schedules.nests import NestReport, lanes_of, schedule_nest

# Operations for each element.
WORK = 8
# Vectors of floats that become one of bytes.
NARROWING = 4


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule ``dynamic.quantize_rows``; None for any other function."""
    if not (sch.mod["main"].attrs or {}).get(ATTRIBUTE):
        return None
    report = NestReport()
    ends = sch.get_sblock("ends")
    *rows, _, _ = sch.get_loops(ends)
    row = sch.fuse(*rows) if len(rows) > 1 else rows[0]
    if WORK * iterations(sch, ends) >= PARALLEL_GRAIN and extent(sch, row) >= target.cores > 1:
        sch.parallel(row)
        report.parallel = True
    for name in ("scale", "inverse", "zero_point", "shift", "quantize_rows"):
        sch.reverse_compute_at(sch.get_sblock(name), row)
    schedule_nest(sch, ends, target, 1, report)
    lanes = lanes_of(target, 32)
    *_, column = sch.get_loops(sch.get_sblock("quantize_rows"))
    sch.annotate(column, VECTORIZE, NARROWING * lanes)
    sch.annotate(column, LANES, lanes)
    return report.as_dict("dynamic_rows")
