"""The templates in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable

from tvm import s_tir, tirx

from compiler.target import Target
from schedules import conv2d, depthwise, matmul

Template = Callable[[s_tir.Schedule, Target], "dict[str, str] | None"]

TEMPLATES: tuple[Template, ...] = (conv2d.apply, depthwise.apply, matmul.apply)


def apply(func: tirx.PrimFunc, target: Target) -> tuple[tirx.PrimFunc, dict[str, str]]:
    """Schedule a function with the first template that takes it.

    A template gets a fresh schedule and returns a report ({"template": ..., "decision": ...}), or
    None where the function is not of its family.
    """
    for template in TEMPLATES:
        schedule = s_tir.Schedule(func)
        report = template(schedule, target)
        if report is not None:
            return schedule.mod["main"], report
    return func, {"template": "serial"}
