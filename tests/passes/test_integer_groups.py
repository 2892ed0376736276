"""Grouped convolutions of bytes: which channels meet which weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from compiler.passes.channel_order import ChannelOrder
from compiler.passes.dot_layout import dot_layouts
from compiler.passes.integer_groups import Arrangement, arrange
from compiler.passes.packed_values import Packed
from compiler.quantize.neighbours import quantize_neighbours
from compiler.quantize.shuffles import neighbours_behind_shuffle
from compiler.target import load_target

NAMES = ("x86_64_v3", "x86_64_v4", "arm_cortex_a72", "arm_cortex_a76", "riscv_spacemit_x60")
DOTS = [d for name in NAMES for d in dot_layouts(load_target(name)) if d.parts == 1]


def packed(channels: int, block: int, order: ChannelOrder | None) -> Packed:
    return Packed(relax.const(np.zeros(1)), (1, channels, 1, 1), block, order=order)


def multiply(arrangement: Arrangement, memory: np.ndarray) -> np.ndarray:
    """What the instruction makes of slots: [slots] -> [slots of the result]."""
    groups = arrangement.groups
    steps = memory.reshape(-1, groups.per_step)
    blocks = len(arrangement.weight)
    result = []
    for j, weight in enumerate(arrangement.weight[:, :, 0, 0].astype("int64")):
        group = j // (blocks // groups.count)
        read = np.stack([steps[groups.step(group, i)] for i in range(groups.all_steps)])
        result.append(np.einsum("scg,sg->c", weight, read))
    return np.concatenate(result)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_products_are_those_of_the_groups(data):
    dot = data.draw(st.sampled_from(DOTS))
    groups = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    parts = data.draw(st.sampled_from([2, 3, 4]))
    size = data.draw(st.integers(1, 40)) * parts
    outputs = data.draw(st.integers(1, 40))
    channels = groups * size
    order = None
    if data.draw(st.booleans()):
        shuffled = data.draw(st.booleans())
        count = parts if shuffled else groups * data.draw(st.sampled_from([1, parts]))
        stride = -(-(channels // count) // dot.block) * dot.block
        order = ChannelOrder(count, channels // count, stride, shuffled)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weight = rng.integers(-127, 128, (groups * outputs, size, 1, 1)).astype("int8")
    x = packed(channels, dot.block, order)
    arrangement = arrange(weight, groups, x, dot)
    assert arrangement is not None
    values = rng.integers(-128, 128, channels)
    memory = np.full(x.blocks * x.block, 1000)  # garbage
    memory[np.arange(channels) if order is None else order.slot(np.arange(channels))] = values
    found = multiply(arrangement, memory)
    wanted = np.einsum(
        "goc,gc->go",
        weight.reshape(groups, outputs, size).astype("int64"),
        values.reshape(groups, size),
    ).reshape(-1)
    slots = np.arange(len(wanted))
    slots = slots if arrangement.order is None else arrangement.order.slot(slots)
    np.testing.assert_array_equal(found[slots], wanted)


def test_short_groups_join_instead_of_being_padded():
    (dot,) = dot_layouts(load_target("arm_cortex_a76"))
    weight = np.ones((64, 4, 3, 3), "int8")
    found = arrange(weight, 16, packed(64, dot.block, None), dot)
    assert found is not None
    assert (found.groups.count, found.order) == (4, None)
    assert found.weight.shape == (4, 4, 3, 3, 16, 4)


def test_irregular_orders_are_left_to_copies():
    dot = DOTS[0]
    weight = np.ones((64, 16, 1, 1), "int8")
    unaligned = ChannelOrder(4, 16, 17, shuffled=True)
    assert arrange(weight, 4, packed(64, dot.block, unaligned), dot) is None


@pytest.mark.parametrize("size", [11, 12, 34, 68])
def test_weights_behind_a_shuffle_are_bounded_where_they_will_lie(size):
    """On x86 without VNNI the fast instruction takes them."""
    dot = next(
        d for d in dot_layouts(load_target("x86_64_v3")) if d.most_neighbours and d.parts == 1
    )
    groups = parts = 4
    rng = np.random.default_rng(size)
    real = rng.standard_normal((groups * 8, size)).astype("float32")
    slots = neighbours_behind_shuffle(len(real), size, groups, parts)
    for row in slots:
        np.testing.assert_array_equal(np.sort(row[row >= 0]), np.arange(size))
    rows, found = np.nonzero(slots >= 0)
    spread = np.zeros(slots.shape, "float32")
    spread[rows, found] = real[rows, slots[rows, found]]
    stored, _ = quantize_neighbours(spread, 0, 1, dot)
    weight = np.zeros(real.shape, "int8")
    weight[rows, slots[rows, found]] = stored[rows, found]
    stride = -(-size // dot.block) * dot.block
    x = packed(groups * size, dot.block, ChannelOrder(parts, size, stride, shuffled=True))
    arrangement = arrange(weight[:, :, None, None], groups, x, dot)
    assert arrangement is not None
    assert arrangement.suits(dot)
