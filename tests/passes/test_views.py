"""Concatenations and slices that only name memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from compiler.passes.place_views import place_views
from compiler.passes.views import Views
from tests.passes.test_packing import module, operators


def placed(build, *shapes) -> list[str]:
    return operators(place_views(module(build, *shapes)))


def computed(b, x, axis: int = 1) -> relax.Expr:
    """Something with memory of its own, as large as ``x``."""
    return b.emit(relax.op.nn.softmax(x, axis=axis))


def joined(b, *parts, axis: int = 1) -> relax.Expr:
    return b.emit(relax.op.concat(list(parts), axis=axis))


def test_parts_that_kernels_write_are_not_copied():
    def build(b, x):
        return relax.op.nn.relu(joined(b, computed(b, x), computed(b, x, 2)))

    assert placed(build, (1, 4, 8)) == ["nn.softmax", "nn.softmax", "concat", "nn.relu"]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 4, 8), 1), ((1, 4, 8), 2), ((1, 4, 1), 1), ((1, 3, 5), 1)],
    ids=["batch of two", "inner axis", "parts of 16 bytes", "misaligned parts"],
)
def test_only_aligned_parts_lie_side_by_side(shape, axis):
    def build(b, x):
        return relax.op.nn.relu(joined(b, computed(b, x), computed(b, x, 0), axis=axis))

    expected = "concat" if shape == (1, 4, 1) else "@concatenate"
    assert placed(build, shape)[2] == expected


def test_parts_that_the_caller_owns_are_copied():
    def build(b, x):
        y = computed(b, x)
        z = b.emit(relax.op.nn.relu(joined(b, y, x, b.emit(relax.op.reshape(y, (1, 4, 8))))))
        return relax.Tuple([z, b.emit(relax.op.reshape(y, (32,)))])

    assert "@concatenate" in placed(build, (1, 4, 8))


def test_a_part_that_appears_twice_is_copied_once():
    def build(b, x):
        y, z = computed(b, x), computed(b, x, 2)
        return relax.op.nn.relu(joined(b, y, z, y))

    assert placed(build, (1, 4, 8)) == ["nn.softmax", "nn.softmax", "@copy", "concat", "nn.relu"]


def test_nested_and_growing_concatenations_share_memory():
    """DenseNet concatenates all that came before, either nested or as a growing list."""

    def build(b, x):
        y, z, w = computed(b, x), computed(b, x, 2), computed(b, x, 0)
        two = joined(b, y, z)
        nested, listed = joined(b, two, w), joined(b, y, z, w)
        results = [b.emit(relax.op.nn.relu(v)) for v in (two, nested, listed)]
        return relax.Tuple(results)

    names = placed(build, (1, 4, 8))
    assert names.count("concat") == 3
    assert "@copy" not in names


def test_a_part_of_two_different_concatenations_is_copied_once():
    def build(b, x):
        y, z, w = computed(b, x), computed(b, x, 2), computed(b, x, 0)
        results = [b.emit(relax.op.nn.relu(joined(b, y, other))) for other in (z, w)]
        return relax.Tuple(results)

    names = placed(build, (1, 4, 8))
    assert (names.count("concat"), names.count("@copy")) == (2, 1)


def test_slices_of_intermediate_tensors_are_views():
    def build(b, x):
        y = computed(b, x)
        parts = [b.emit(relax.op.strided_slice(y, [1], [i], [i + 2])) for i in (0, 2, -4)]
        return relax.Tuple([b.emit(relax.op.nn.relu(p)) for p in parts])

    assert placed(build, (1, 8, 4)).count("strided_slice") == 3


@pytest.mark.parametrize(
    ("axis", "begin", "end", "stride"), [(2, 0, 4, 1), (1, 0, 8, 2), (1, 1, 3, 1)]
)
def test_other_slices_stay_copies(axis, begin, end, stride):
    def build(b, x):
        part = relax.op.strided_slice(computed(b, x), [axis], [begin], [end], [stride])
        return relax.op.nn.relu(b.emit(part))

    shape = (1, 8, 5) if begin else (1, 8, 8)
    assert placed(build, shape)[1] == "@strided_slice"


def test_slices_of_inputs_and_of_results_stay_copies():
    def build(b, x):
        y = computed(b, x)
        parts = [b.emit(relax.op.strided_slice(v, [1], [0], [4])) for v in (x, y)]
        return relax.Tuple([y, *(b.emit(relax.op.nn.relu(p)) for p in parts)])

    assert "strided_slice" not in placed(build, (1, 8, 4))


def test_halves_that_come_back_together_are_copied_once():
    """ShuffleNetV2: one half goes round the branch, the other one stays where it was."""

    def build(b, x):
        y = computed(b, x)
        left, right = (b.emit(relax.op.strided_slice(y, [1], [i], [i + 4])) for i in (0, 4))
        return relax.op.nn.relu(joined(b, left, computed(b, right)))

    names = placed(build, (1, 8, 4))
    assert names == [
        "nn.softmax",
        "strided_slice",
        "strided_slice",
        "nn.softmax",
        "@copy",
        "concat",
        "nn.relu",
    ]


_steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "slice", "concat", "concat"]),
        st.lists(st.integers(0, 99), min_size=3, max_size=3),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(_steps)
def test_tensors_with_memory_of_their_own_never_overlap(steps):
    """Every view lies where its definition says, and kernels' results are disjoint."""
    views, sizes, owned = Views(), {0: 64, 1: 128}, [0, 1]
    views.add(0, 64)
    views.add(1, 128)
    for kind, (a, b, c) in steps:
        new, a, b, c = len(sizes), a % len(sizes), b % len(sizes), c % len(sizes)
        if kind == "add":
            sizes[new] = 64 * (1 + a % 3)
            views.add(new, sizes[new])
            owned.append(new)
        elif kind == "slice":
            sizes[new] = 64
            views.slice(new, a, 64 * (b % (sizes[a] // 64)))
        else:
            parts, lengths = [a, b, c], [sizes[p] for p in (a, b, c)]
            if views.can_place(parts, lengths) != {0, 1, 2}:
                with pytest.raises(ValueError, match="side by side"):
                    views.concatenate(new, parts, lengths)
                continue
            sizes[new] = sum(lengths)
            views.concatenate(new, parts, lengths)
            starts = [views.locate(p) for p in parts]
            whole = views.locate(new)
            assert starts == [(whole[0], whole[1] + sum(lengths[:i])) for i in range(3)]
    taken: dict = {}
    for key in owned:
        group, begin = views.locate(key)
        low, high = views.extent(group)
        assert low <= begin < begin + sizes[key] <= high
        for other_begin, other_end in taken.setdefault(group, []):
            assert begin >= other_end or other_begin >= begin + sizes[key]
        taken[group].append((begin, begin + sizes[key]))
