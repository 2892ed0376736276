"""Functions of several blocks: inline what is cheap, compute the rest row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir

from compiler.target import Target
from schedules.access import (
    CALL_COST,
    cost,
    is_elementwise,
    is_reduction,
    spatial_extents,
)
from schedules.blocks import PARALLEL_GRAIN, Block, Schedule, iterations
from schedules.choices import Chooser
from schedules.nests import NestReport, schedule_nest


def kept_blocks(sch: Schedule) -> list[Block]:
    """The blocks of a function in execution order."""
    return sch.get_child_blocks(sch.get_sblock("root"))


def names_of(sch: Schedule, blocks: list[Block]) -> list[str]:
    """Names survive changes of the schedule that replace blocks."""
    return [sch.get(b).name_hint for b in blocks]


def is_output(sch: Schedule, block: Block) -> bool:
    """Whether a block writes a parameter of the function."""
    params = list(sch.mod["main"].params)
    return any(r.source.same_as(p) for r in sch.get(block).writes for p in params)


def inline_cheap_blocks(sch: Schedule) -> None:
    """Inline element-wise blocks into their consumers.

    Kept are results that would be computed again and again: expensive ones with several consumers
    or with a consumer that visits each element more than once.
    """
    for name in names_of(sch, kept_blocks(sch)):
        block = sch.get_sblock(name)
        if not is_elementwise(sch, block) or is_output(sch, block):
            continue
        if cost(sch, block) > CALL_COST and _is_reused(sch, block):
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            # Its result is read in a way that cannot be inverted; it stays a stage of its own.
            continue


def _is_reused(sch: Schedule, block: Block) -> bool:
    consumers = sch.get_consumers(block)
    visits = max((iterations(sch, c) for c in consumers), default=1)
    return len(consumers) > 1 or visits > iterations(sch, block)


def schedule_rows(sch: Schedule, target: Target, report: NestReport) -> bool:
    """Compute all stages for one row of the output before the next row: rows stay in L1.

        before:  for i, k: max[i] = ...        after:  for i (parallel):
                 for i, j: e[i, j] = ...                   for k: max = ...
                 for i, j: out[i, j] = ...                 for j: e[j] = ...
                                                           for j: out[i, j] = ...

    Returns False, without a change, where the stages do not share leading axes or there are too
    few rows to share among the cores.
    """
    blocks = kept_blocks(sch)
    outputs = [b for b in blocks if is_output(sch, b)]
    if len(outputs) != 1 or len(blocks) < 2 or not is_elementwise(sch, outputs[0]):
        return False
    output = outputs[0]
    depth = _shared_depth(sch, blocks, output)
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(output)]
    rows = math.prod(extents[:depth])
    work = sum(iterations(sch, b) * cost(sch, b) for b in blocks)
    if depth == 0 or (rows < target.cores and work >= PARALLEL_GRAIN):
        return False
    limit = 2 * sum(iterations(sch, b) for b in blocks)
    loops = sch.get_loops(output)
    row = sch.fuse(*loops[:depth]) if depth > 1 else loops[0]
    if work >= PARALLEL_GRAIN and rows > 1 and target.cores > 1:
        sch.parallel(row)
        report.parallel = True
    producers = [name for name in names_of(sch, blocks) if name != sch.get(output).name_hint]
    for name in reversed(producers):
        sch.compute_at(sch.get_sblock(name), row)
    if sum(_executions(sch, sch.get_sblock(name)) for name in producers) > limit:
        raise s_tir.ScheduleError("rows would be computed more than once")
    for name in [*producers, sch.get(output).name_hint]:
        if name not in report.absorbed:
            schedule_nest(sch, sch.get_sblock(name), target, 1, report)
    return True


def _executions(sch: Schedule, block: Block) -> int:
    return math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block))


def _shared_depth(sch: Schedule, blocks: list[Block], output: Block) -> int:
    """How many leading axes of the output all reductions keep."""
    extents = spatial_extents(sch, output)
    depth = len(extents)
    for block in blocks:
        if not is_reduction(sch, block):
            continue
        shared = 0
        for mine, wanted in zip(spatial_extents(sch, block), extents, strict=False):
            if mine != wanted:
                break
            shared += 1
        if math.prod(spatial_extents(sch, block)[shared:]) != 1:
            return 0
        depth = min(depth, shared)
    return depth if math.prod(extents[depth:]) > 1 else 0


def schedule_separately(
    sch: Schedule, target: Target, report: NestReport, careful: bool = False
) -> None:
    """Each remaining block gets a nest of its own, in execution order.

    Args:
        careful: try each block on a copy first and leave it as it is where that fails.
    """
    for name in names_of(sch, kept_blocks(sch)):
        if name in report.absorbed or not sch.get_loops(sch.get_sblock(name)):
            continue
        if careful and not _succeeds(sch, name, target):
            report.serial.append(name)
            continue
        schedule_nest(sch, sch.get_sblock(name), target, 0, report)


def _succeeds(sch: Schedule, name: str, target: Target) -> bool:
    trial = sch.copy()
    try:
        schedule_nest(trial, trial.get_sblock(name), target, 0, NestReport())
    except (RuntimeError, ValueError, TypeError):
        return False
    return True


@dataclass(frozen=True)
class Nesting:
    """What a tuner may choose: all stages row by row, or one after the other."""

    by_rows: bool


def schedule_stages(
    sch: Schedule, target: Target, template: str, choose: Chooser
) -> dict[str, str]:
    """Rows where stages share leading axes, else a nest for each stage."""
    report = NestReport()
    nesting = Nesting(by_rows=True)
    if len(kept_blocks(sch)) > 1:
        nesting = choose(sch, nesting, [Nesting(by_rows=False)])
    if not nesting.by_rows or not schedule_rows(sch, target, report):
        schedule_separately(sch, target, report)
    return report.as_dict(template)
