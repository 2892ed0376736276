"""Layer, RMS, instance and group normalisation: statistics and scaling of a row while it is in L1.

Sums of squares, variances and reciprocal roots are inlined where they are cheap; the passes over a
row (mean, variance, result) use vector accumulators.
"""

from __future__ import annotations

from tvm import tirx

from compiler.target import Target
from schedules.access import calls, is_reduction
from schedules.blocks import Schedule
from schedules.choices import Chooser
from schedules.reduction import combiner
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function of sums that end in a reciprocal square root; None for any other."""
    blocks = kept_blocks(sch)
    reductions = [block for block in blocks if is_reduction(sch, block)]
    roots = any(calls(sch, block) & {"rsqrt", "sqrt"} for block in blocks)
    if not reductions or not roots:
        return None
    if any(combiner(sch, block) is not tirx.Add for block in reductions):
        return None
    inline_cheap_blocks(sch)
    return schedule_stages(sch, target, "normalization", choose)
