"""Live ranges of a graph's buffers: what the memory plan must place, and where views lie in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.codegen.arena import Interval
from compiler.codegen.graph import Call, Graph


@dataclass(frozen=True)
class Needs:
    """What a kernel asks of the memory plan.

    Args:
        in_place: positions of the inputs whose memory the output may take over.
        workspaces: bytes of each large temporary of one call.
    """

    in_place: tuple[int, ...]
    workspaces: tuple[int, ...]


@dataclass
class _Group:
    """Buffers at fixed distances, placed and freed as one; ``name`` is that of their interval."""

    name: str
    nbytes: int
    parts: list[Interval]  # the members that are not the whole group
    first: int
    last: int


def lifetimes(
    graph: Graph, needs: Mapping[str, Needs], bound: Mapping[int, int]
) -> tuple[list[Interval], list[list[str]]]:
    """Intervals of all arena tensors ("t" and the buffer's number), views included.

    Args:
        needs: by the name of a call's function.
        bound: buffers that are model outputs; those live elsewhere.

    Returns:
        The intervals, and for each call the names of its workspaces' intervals.
    """
    groups = _groups(graph, bound)
    intervals: dict[str, Interval] = {}
    workspaces: list[list[str]] = []
    for index, call in enumerate(graph.calls):
        need = needs[call.function]
        for buffer in call.outputs:
            group = groups.get(buffer)
            if group is None or group.name in intervals:
                continue
            whole = Interval(group.name, group.nbytes, group.first, group.last)
            if len(call.outputs) == 1 and not group.parts:
                whole.in_place_of = _dying_input(graph, call, need, groups, index)
            intervals |= {i.name: i for i in (whole, *group.parts)}
        names = [f"w{index}.{n}" for n in range(len(need.workspaces))]
        for name, nbytes in zip(names, need.workspaces, strict=True):
            intervals[name] = Interval(name, nbytes, index, index)
        workspaces.append(names)
    return list(intervals.values()), workspaces


def _groups(graph: Graph, bound: Mapping[int, int]) -> dict[int, _Group]:
    """The group of each buffer that kernels use and that lies in the arena."""
    uses: dict[int, list[int]] = {}
    for index, call in enumerate(graph.calls):
        for buffer in (*call.inputs, *call.outputs):
            uses.setdefault(buffer, []).append(index)
    roots: dict[int, _Group] = {}
    groups: dict[int, _Group] = {}
    for buffer, calls in sorted(uses.items()):
        if buffer not in graph.views or buffer in bound:
            continue
        first, last = calls[0], calls[-1]
        root, offset = graph.views.locate(buffer)
        begin, end = graph.views.extent(root)
        if root not in roots:
            whole = (begin, end) == (0, graph.buffers[root].nbytes)
            roots[root] = _Group(f"{'t' if whole else 'g'}{root}", end - begin, [], first, last)
        group = groups[buffer] = roots[root]
        group.first, group.last = min(group.first, first), max(group.last, last)
        name, nbytes = f"t{buffer}", graph.buffers[buffer].nbytes
        if name != group.name:
            group.parts.append(
                Interval(name, nbytes, first, last, None, group.name, offset - begin)
            )
    return groups


def _dying_input(
    graph: Graph, call: Call, need: Needs, groups: Mapping[int, _Group], index: int
) -> str | None:
    """Name of an input's interval that is last used by this call and may be overwritten."""
    for position in need.in_place:
        buffer = call.inputs[position]
        group = groups.get(buffer)
        if group is None or group.last != index or group.nbytes != graph.buffers[buffer].nbytes:
            continue
        if sum(groups.get(other) is group for other in call.inputs) == 1:
            return group.name
    return None
