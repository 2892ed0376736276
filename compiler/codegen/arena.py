"""Static memory plan: offsets of all intermediate tensors in one arena.

Greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020, section 5.2), tried with several orders; the smallest result wins. While it is above the
lower bound, tensors that stick out on top are placed earlier and the rest again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compiler.program import Allocation, ArenaPlan, align

MAX_REPAIRS = 300


@dataclass
class Interval:
    """A tensor to place, live from call ``first`` to call ``last``, both inclusive.

    Args:
        in_place_of: name of an interval that ends where this one starts and gives it its memory.
        part_of: name of an interval that this one lies in, ``offset`` bytes behind its start, and
            that lives at least as long.
    """

    name: str
    nbytes: int
    first: int
    last: int
    in_place_of: str | None = None
    part_of: str | None = None
    offset: int = 0


def plan_arena(intervals: Iterable[Interval], scratch_bytes: int = 0) -> ArenaPlan:
    """Place intervals so that no two that live at the same time overlap, parts excepted."""
    intervals = list(intervals)
    groups = _group_in_place(intervals)
    orders: list[Callable[[Interval], tuple]] = [
        lambda g: (-g.nbytes, g.first),
        lambda g: (-g.nbytes * (g.last - g.first + 1), g.first),
        lambda g: (g.first, -g.nbytes),
        lambda g: (-(g.last - g.first), -g.nbytes),
    ]
    candidates = [sorted(groups.values(), key=order) for order in orders]
    candidates.append(_by_busiest_call(list(groups.values())))
    peak = _peak(groups.values())
    offsets, nbytes = min((_repair(c, peak) for c in candidates), key=lambda plan: plan[1])
    root = _roots(intervals)
    allocations = tuple(
        Allocation(
            i.name,
            offsets[root[i.name]] + i.offset,
            i.nbytes,
            i.first,
            i.last,
            i.in_place_of,
            i.part_of,
        )
        for i in intervals
    )
    return ArenaPlan(nbytes, peak, allocations, scratch_bytes)


def _roots(intervals: list[Interval]) -> dict[str, str]:
    root: dict[str, str] = {}
    for interval in intervals:
        host = interval.in_place_of or interval.part_of
        root[interval.name] = root[host] if host else interval.name
    return root


def _group_in_place(intervals: list[Interval]) -> dict[str, Interval]:
    """Merge chains of in-place tensors into one interval each, keyed by the first one's name."""
    root = _roots(intervals)
    groups: dict[str, Interval] = {}
    for i in intervals:
        if i.part_of:
            continue
        name = root[i.name]
        if name not in groups:
            groups[name] = Interval(name, align(i.nbytes), i.first, i.last)
        group = groups[name]
        group.nbytes = max(group.nbytes, align(i.nbytes))
        group.last = max(group.last, i.last)
    return groups


def _peak(groups: Iterable[Interval]) -> int:
    """Most bytes live during one call: no plan can be smaller."""
    change: dict[int, int] = {}
    for g in groups:
        change[g.first] = change.get(g.first, 0) + g.nbytes
        change[g.last + 1] = change.get(g.last + 1, 0) - g.nbytes
    live = peak = 0
    for call in sorted(change):
        live += change[call]
        peak = max(peak, live)
    return peak


def _by_busiest_call(groups: list[Interval]) -> list[Interval]:
    """Order by the live bytes of the busiest call a tensor takes part in, then by size."""
    live: dict[int, int] = {}
    for g in groups:
        for call in range(g.first, g.last + 1):
            live[call] = live.get(call, 0) + g.nbytes
    breadth = {g.name: max(live[c] for c in range(g.first, g.last + 1)) for g in groups}
    return sorted(groups, key=lambda g: (-breadth[g.name], -g.nbytes, g.first))


def _repair(order: list[Interval], peak: int) -> tuple[dict[str, int], int]:
    """Place in order; while above the peak, move the topmost tensor forward and place again."""
    best_offsets, best = _place(order)
    for attempt in range(MAX_REPAIRS):
        if best <= peak:
            break
        offsets, nbytes = _place(order)
        if nbytes < best:
            best_offsets, best = offsets, nbytes
        top = max(order, key=lambda g: offsets[g.name] + g.nbytes)
        position = order.index(top)
        if position == 0:
            break
        # Half of the way at first, single steps later: large jumps find the region, small settle.
        order.insert(position // 2 if attempt % 4 == 0 else position - 1, order.pop(position))
    return best_offsets, best


def _place(groups: Iterable[Interval]) -> tuple[dict[str, int], int]:
    """Give each interval, in order, the lowest gap that is free for its whole life (best fit)."""
    placed: list[tuple[int, Interval]] = []  # sorted by offset
    offsets: dict[str, int] = {}
    total = 0
    for g in groups:
        offset = _best_gap(placed, g)
        offsets[g.name] = offset
        total = max(total, offset + g.nbytes)
        placed.append((offset, g))
        placed.sort(key=lambda entry: entry[0])
    return offsets, total


def _best_gap(placed: list[tuple[int, Interval]], g: Interval) -> int:
    end, best, best_size = 0, None, None
    for offset, other in placed:
        if other.last < g.first or g.last < other.first:
            continue
        gap = offset - end
        if gap >= g.nbytes and (best_size is None or gap < best_size):
            best, best_size = end, gap
        end = max(end, offset + other.nbytes)
    return end if best is None else best
