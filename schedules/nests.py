"""One block, one loop nest: which axis is vectorised, which are fused, which run in parallel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tvm import tirx

from compiler.codegen.strided_loads import LARGEST_STRIDE
from compiler.codegen.vector_loops import CUT, LANES, REDUCE, TASKS, VECTORIZE
from compiler.target import Target
from schedules.access import (
    Axis,
    axes_of,
    cost,
    element_bits,
    is_elementwise,
    is_reduction,
    spatial_extents,
    total_cost,
)
from schedules.blocks import PARALLEL_GRAIN, Block, Schedule

# Independent vectors in flight: enough to hide the latency of additions, few enough for registers.
ACCUMULATORS = 4
# Windows up to this many taps are unrolled.
UNROLLED_TAPS = 16
EXPENSIVE = 24


@dataclass
class NestReport:
    """What became of the nests of a function."""

    serial: list[str] = field(default_factory=list)
    absorbed: set[str] = field(default_factory=set)  # blocks that moved into another's nest
    vectorized: int = 0
    parallel: bool = False

    def as_dict(self, template: str) -> dict[str, str]:
        """The receipt's entry."""
        entry = {"template": template, "parallel": "yes" if self.parallel else "no"}
        if self.serial:
            entry["serial"] = ", ".join(self.serial)
        return entry


def lanes_of(target: Target, bits: int) -> int:
    """Elements of a vector register; 4 independent scalars where there is no vector unit."""
    return target.vector.lanes(bits) if target.vector.bits else 4


def schedule_nest(
    sch: Schedule, block: Block, target: Target, depth: int, report: NestReport
) -> None:
    """Schedule the loops of a block below ``depth`` outer ones that belong to somebody else."""
    if is_reduction(sch, block):
        _schedule_reduction(sch, block, target, depth, report)
    else:
        _schedule_elementwise(sch, block, target, depth, report)


# --- element-wise ---------------------------------------------------------------------------


def _schedule_elementwise(
    sch: Schedule, block: Block, target: Target, depth: int, report: NestReport
) -> None:
    axes = axes_of(sch, block)[depth:]
    work = total_cost(sch, block)
    name = sch.get(block).name_hint
    vector = _store_axis(axes)
    if vector is None:
        if math.prod(a.extent for a in axes) > 1:
            report.serial.append(name)
        if depth == 0:
            _run_in_parallel(sch, axes, target, work, report)
        return
    group = _collapsible(axes, vector)
    inner = _inner_axis(axes, vector, group)
    outer = [a for a in axes if a not in group and a is not inner]
    ordered = [*outer, *group, *([inner] if inner else [])]
    if ordered != axes:
        sch.reorder(*(a.loop for a in ordered))
    loop = sch.fuse(*(a.loop for a in group)) if len(group) > 1 else group[0].loop
    extent = math.prod(a.extent for a in group)
    lanes = lanes_of(target, element_bits(sch, block))
    vectors = 1 if cost(sch, block) >= EXPENSIVE or not target.vector.bits else 2
    sch.annotate(loop, VECTORIZE, lanes * vectors)
    sch.annotate(loop, LANES, lanes)
    report.vectorized += 1
    if depth:
        return
    if math.prod(a.extent for a in outer) >= target.cores:
        _run_in_parallel(sch, outer, target, work, report)
    elif work >= PARALLEL_GRAIN and target.cores > 1:
        tasks = min(target.cores * 2, max(2, work // PARALLEL_GRAIN))
        if extent // (lanes * vectors) >= tasks and not any(a.tested for a in group):
            sch.annotate(loop, TASKS, tasks)
            report.parallel = True
        else:
            _run_in_parallel(sch, outer, target, work, report)


def _inner_axis(axes: list[Axis], vector: Axis, group: list[Axis]) -> Axis | None:
    """The axis to run inside of the vectorised one, where that one jumps through memory.

    A transposition reads one line of each lane's row and uses all of it before the next lines;
    a resize computes the positions of its lanes once for a column.
    """
    others = [a for a in axes if a not in group and a.extent > 1]
    for axis in reversed(others):
        for along, across in zip(vector.loads, axis.loads, strict=True):
            jumps = along is not None and abs(along) > LARGEST_STRIDE
            if jumps and across == 1:
                return axis
    if others and None in vector.loads and not vector.tested:
        return others[-1]
    return None


def _store_axis(axes: list[Axis]) -> Axis | None:
    """The innermost axis whose neighbours are neighbours in the result."""
    candidates = [
        a for a in axes if a.extent > 1 and not a.reduces and all(s == 1 for s in a.stores)
    ]
    return candidates[-1] if candidates else None


def _collapsible(axes: list[Axis], vector: Axis) -> list[Axis]:
    """The vector axis with those outside of it that continue it in every tensor."""
    group = [vector]
    extent = vector.extent
    for axis in reversed(axes[: axes.index(vector)]):
        if axis.extent == 1:
            continue
        inner = group[0] if group[0].extent > 1 else vector
        if axis.tested or any(a.tested for a in group) or axis.reduces != vector.reduces:
            break
        strides = zip((*axis.loads, *axis.stores), (*vector.loads, *vector.stores), strict=True)
        if not all(o is not None and i is not None and o == i * extent for o, i in strides):
            break
        if axes.index(inner) - axes.index(axis) != 1 and any(
            a.extent > 1 for a in axes[axes.index(axis) + 1 : axes.index(inner)]
        ):
            break
        group.insert(0, axis)
        extent *= axis.extent
    return group


def _run_in_parallel(
    sch: Schedule, axes: list[Axis], target: Target, work: int, report: NestReport
) -> None:
    """Fuse the leading spatial axes and share them where the work is worth it."""
    if work < PARALLEL_GRAIN or target.cores < 2:
        return
    leading = []
    for axis in axes:
        if axis.reduces:
            break
        leading.append(axis)
    while leading and leading[-1].extent == 1:
        leading.pop()
    if math.prod(a.extent for a in leading) < 2:
        return
    loops = [a.loop for a in leading]
    sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])
    report.parallel = True


# --- reductions -----------------------------------------------------------------------------


def _schedule_reduction(
    sch: Schedule, block: Block, target: Target, depth: int, report: NestReport
) -> None:
    axes = axes_of(sch, block)[depth:]
    lanes = lanes_of(target, element_bits(sch, block))
    across = _spatial_candidate(axes)
    along = _reduce_candidate(axes)
    across_score = _score(across, lanes) if across else 0.0
    along_extent = math.prod(a.extent for a in _collapsible(axes, along)) if along else 0
    # Short rows are mostly the folding of lanes at their end.
    along_score = 0.9 * min(along_extent, lanes) if along_extent >= 2 * lanes else along_extent / 8
    if along is not None and along_score > 0.125 and along_score >= across_score:
        _reduce_along(sch, block, target, depth, along, report)
    elif across is not None and across_score > 0:
        _reduce_across(sch, block, target, depth, across, report)
    else:
        work = total_cost(sch, block)
        if math.prod(a.extent for a in axes) > 1:
            report.serial.append(sch.get(block).name_hint)
        if depth == 0:
            _run_in_parallel(sch, axes, target, work, report)
        _decompose(sch, block)


def _spatial_candidate(axes: list[Axis]) -> Axis | None:
    axis = _store_axis(axes)
    return axis if axis is not None and all(s is not None for s in axis.loads) else None


def _reduce_candidate(axes: list[Axis]) -> Axis | None:
    """The innermost reducing axis that reads neighbours somewhere and nothing worse elsewhere."""
    for axis in reversed(axes):
        if axis.reduces and axis.extent > 1 and 1 in axis.loads:
            return axis if all(s in (0, 1) for s in axis.loads) else None
    return None


def _score(axis: Axis, lanes: int) -> float:
    worst = max((abs(s or 0) for s in axis.loads), default=0)
    efficiency = 1.0 if worst <= 1 else 0.7 if worst <= LARGEST_STRIDE else 0.2
    return efficiency * min(axis.extent, lanes)


def _reduce_along(
    sch: Schedule, block: Block, target: Target, depth: int, vector: Axis, report: NestReport
) -> None:
    """Vector accumulators over a contiguous reducing axis; their lanes are added at the end."""
    axes = axes_of(sch, block)[depth:]
    vector = next(a for a in axes if a.var.same_as(vector.var))
    group = _collapsible(axes, vector)
    spatial = [a for a in axes if not a.reduces]
    others = [a for a in axes if a.reduces and a not in group]
    sch.reorder(*(a.loop for a in (*spatial, *others, *group)))
    loop = sch.fuse(*(a.loop for a in group)) if len(group) > 1 else group[0].loop
    lanes = lanes_of(target, element_bits(sch, block))
    sch.annotate(loop, REDUCE, lanes * (ACCUMULATORS if target.vector.bits else 1))
    sch.annotate(loop, LANES, lanes)
    if _has_known_combiner(sch, block):
        report.vectorized += 1
    else:
        report.serial.append(sch.get(block).name_hint)
    if depth == 0:
        _run_in_parallel(sch, spatial, target, total_cost(sch, block), report)
    _decompose(sch, block)


def _has_known_combiner(sch: Schedule, block: Block) -> bool:
    """Whether codegen can keep partial results in lanes: sums, products, extrema, positions."""
    body = sch.get(block).body
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    values = [s.value for s in statements if isinstance(s, (tirx.Bind, tirx.BufferStore))]
    combiners = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min, tirx.Select)
    return all(isinstance(value, (*combiners, tirx.Var)) for value in values)


def _reduce_across(
    sch: Schedule, block: Block, target: Target, depth: int, vector: Axis, report: NestReport
) -> None:
    """Each lane reduces for itself: the contiguous spatial axis outside, reducing axes inside.

    The result stays in registers until the epilogue, or a copy where there is none, stores it.
    """
    epilogue = _epilogue(sch, block)
    if epilogue is None:
        epilogue = sch.cache_write(block, 0, "global")
    report.absorbed.add(sch.get(epilogue).name_hint)
    axes = axes_of(sch, block)[depth:]
    vector = next(a for a in axes if a.var.same_as(vector.var))
    outer = [a for a in axes if not a.reduces and a is not vector]
    taps = [a for a in axes if a.reduces]
    sch.reorder(*(a.loop for a in (*outer, vector, *taps)))
    sch.reverse_compute_at(epilogue, vector.loop, preserve_unit_loops=True)
    lanes = lanes_of(target, element_bits(sch, block))
    vectors = min(ACCUMULATORS, max(1, vector.extent // lanes)) if target.vector.bits else 1
    work = total_cost(sch, block)
    tasks = 1
    if depth == 0 and math.prod(a.extent for a in outer) < target.cores and work >= PARALLEL_GRAIN:
        # Too few rows: tasks take stretches of the vectorised axis.
        while vectors > 1 and vector.extent // (lanes * vectors) < target.cores:
            vectors -= 1
        if not vector.tested:
            tasks = max(1, min(target.cores, vector.extent // (lanes * vectors)))
        if tasks > 1:
            sch.annotate(vector.loop, TASKS, tasks)
            report.parallel = True
    sch.annotate(vector.loop, VECTORIZE, lanes * vectors)
    sch.annotate(vector.loop, LANES, lanes)
    report.vectorized += 1
    tested = [a for a in outer if a.tested and a.extent > 2]
    if math.prod(a.extent for a in taps) <= UNROLLED_TAPS:
        for tap in taps:
            sch.unroll(tap.loop)
        if tested:
            # Without padding in sight the taps are straight-line code.
            sch.annotate(tested[-1].loop, CUT, 1)
    if depth == 0 and tasks == 1:
        shared = outer[: outer.index(tested[-1])] if tested else outer
        _run_in_parallel(sch, shared, target, work, report)
    _decompose(sch, block)


def _epilogue(sch: Schedule, block: Block) -> Block | None:
    """The only consumer, if it is element-wise over exactly the reduction's result."""
    consumers = sch.get_consumers(block)
    if len(consumers) != 1 or not is_elementwise(sch, consumers[0]):
        return None
    if len(sch.get_producers(consumers[0])) != 1:
        return None
    same = spatial_extents(sch, consumers[0]) == spatial_extents(sch, block)
    return consumers[0] if same else None


def _decompose(sch: Schedule, block: Block) -> None:
    """Set the start value before the first reducing loop rather than inside of it."""
    for axis in axes_of(sch, block):
        if axis.reduces:
            sch.decompose_reduction(block, axis.loop)
            return
