"""The templates in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable

from tvm import s_tir, tirx

from compiler.target import Target
from schedules import (
    byte_table,
    conv2d,
    conv2d_integer,
    conv2d_integer_pairs,
    conv2d_widening,
    depthwise,
    depthwise_integer,
    depthwise_pointwise,
    dynamic_rows,
    elementwise,
    generic,
    interleave,
    matmul,
    matmul_grouped,
    matmul_integer,
    matmul_integer_pairs,
    matmul_widening,
    normalization,
    pooling,
    product_columns,
    reduction,
    response_norm,
    softmax,
    winograd,
)
from schedules.addends import start_from_addends
from schedules.blocks import split_gathered_lanes
from schedules.choices import Chooser, UnknownDecisionError, take_default

Template = Callable[[s_tir.Schedule, Target, Chooser], "dict[str, str] | None"]

TEMPLATES: tuple[Template, ...] = (
    depthwise_pointwise.apply,
    conv2d.apply,
    conv2d_widening.apply,
    conv2d_integer.apply,
    conv2d_integer_pairs.apply,
    winograd.apply,
    depthwise.apply,
    depthwise_integer.apply,
    matmul.apply,
    matmul_grouped.apply,
    matmul_widening.apply,
    matmul_integer.apply,
    matmul_integer_pairs.apply,
    byte_table.apply,
    interleave.apply,
    product_columns.apply,
    dynamic_rows.apply,
    response_norm.apply,
)
# Of the meaning of a template's decisions: raised when the same integers no longer make the same
# loops, so that records of the old meaning are left out.
VERSIONS = {
    "conv2d": 1,
    "conv2d_integer": 1,
    "winograd": 1,
    "winograd_integer": 1,
    "depthwise": 1,
    "depthwise_integer": 1,
    "depthwise_pointwise": 1,
    "matmul": 1,
    "matmul_grouped": 1,
    "matmul_integer": 1,
    "byte_table": 1,
    "interleave": 1,
    "product_columns": 1,
    "dynamic_rows": 1,
    "response_norm": 1,
    "softmax": 1,
    "normalization": 1,
    "pooling": 1,
    "reduction": 1,
    "elementwise": 1,
}
# Families that promise nothing: where a step fails on an unusual function, the next one is tried.
FAMILIES: tuple[Template, ...] = (
    elementwise.apply,
    softmax.apply,
    normalization.apply,
    pooling.apply,
    reduction.apply,
    generic.apply,
)


def apply(
    func: tirx.PrimFunc, target: Target, choose: Chooser = take_default
) -> tuple[tirx.PrimFunc, dict[str, str]]:
    """Schedule a function with the first template that takes it.

    A template gets a fresh schedule and returns a report ({"template": ..., "decision": ...}), or
    None where the function is not of its family. "serial" in the report names the blocks that run
    as plain loops.

    Args:
        choose: takes one of the decisions that the template offers.

    Raises:
        UnknownDecisionError: the template does not offer what ``choose`` wants.
    """
    for template in TEMPLATES:
        schedule = s_tir.Schedule(func)
        split_gathered_lanes(schedule)
        report = template(schedule, target, choose)
        if report is not None:
            scheduled = schedule.mod["main"]
            # Floats are not measured on x86.
            measured = target.arch != "x86_64" or "intrinsic" in report
            return start_from_addends(scheduled) if measured else scheduled, report
    reason = ""
    for template in FAMILIES:
        try:
            schedule = s_tir.Schedule(func)
            split_gathered_lanes(schedule)
            report = template(schedule, target, choose)
        except UnknownDecisionError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            continue
        if report is not None:
            return schedule.mod["main"], report
    return func, {"template": "serial", "serial": "all", "reason": reason}
