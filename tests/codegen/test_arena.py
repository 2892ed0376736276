"""The memory plan never lets two living tensors overlap, and is close to the lower bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.codegen.arena import Interval, plan_arena
from compiler.program import ALIGNMENT, ArenaPlan


def overlaps(plan: ArenaPlan) -> list[tuple[str, str]]:
    """Pairs that share bytes during a call and are not meant to."""
    found = []
    allocations = plan.allocations
    for i, a in enumerate(allocations):
        for b in allocations[i + 1 :]:
            in_time = a.first <= b.last and b.first <= a.last
            in_space = a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes
            handed_over = b.in_place_of in (a.name, a.part_of or a.name) and a.last == b.first
            related = handed_over or b.part_of == a.name or (a.part_of and a.part_of == b.part_of)
            if in_time and in_space and not related:
                found.append((a.name, b.name))
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(0, 30), st.integers(0, 12)),
        min_size=1,
        max_size=40,
    )
)
def test_living_tensors_never_overlap(tensors):
    intervals = [
        Interval(f"t{i}", nbytes, first, first + life)
        for i, (nbytes, first, life) in enumerate(tensors)
    ]
    plan = plan_arena(intervals)
    assert overlaps(plan) == []
    assert plan.peak_live <= plan.nbytes
    assert all(a.offset % ALIGNMENT == 0 for a in plan.allocations)
    assert all(a.offset + a.nbytes <= plan.nbytes for a in plan.allocations)


def test_in_place_tensor_takes_the_dying_ones_memory():
    plan = plan_arena([Interval("x", 1000, 0, 1), Interval("y", 1000, 1, 2, in_place_of="x")])
    x, y = plan.allocations
    assert x.offset == y.offset
    assert plan.nbytes == plan.peak_live == 1024


def test_parts_lie_in_their_whole():
    intervals = [
        Interval("x", 640, 0, 2),
        Interval("whole", 640, 1, 4),
        Interval("left", 320, 1, 4, part_of="whole"),
        Interval("right", 320, 2, 3, part_of="whole", offset=320),
        Interval("y", 640, 4, 5, in_place_of="whole"),
    ]
    plan = plan_arena(intervals)
    _, whole, left, right, y = plan.allocations
    assert overlaps(plan) == []
    assert (left.offset, right.offset) == (whole.offset, whole.offset + 320)
    assert y.offset == whole.offset
    assert plan.nbytes == plan.peak_live == 1280


def test_chain_of_layers_needs_two_neighbours_at_a_time():
    sizes = [100, 400, 300, 800, 200, 50]
    plan = plan_arena([Interval(f"t{i}", s * 64, i, i + 1) for i, s in enumerate(sizes)])
    assert plan.nbytes == plan.peak_live == (300 + 800) * 64


@pytest.mark.parametrize("branches", [2, 3, 5])
def test_plan_of_branching_networks_is_within_ten_percent(branches):
    intervals = []
    for block in range(12):
        first = block * (branches + 1)
        size = 64 * (1 + block % 5) * 40
        intervals.append(Interval(f"in{block}", size, first, first + branches))
        for b in range(branches):
            name = f"b{block}.{b}"
            intervals.append(Interval(name, size // (b + 1), first + b, first + branches + 1))
    plan = plan_arena(intervals)
    assert overlaps(plan) == []
    assert plan.nbytes <= 1.1 * plan.peak_live
