"""Slots of grouped and shuffled channels."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.passes.channel_order import ChannelOrder, blocks_of, shuffled


@pytest.mark.parametrize(
    "order", [ChannelOrder(4, 11, 16), ChannelOrder(4, 11, 16, True), ChannelOrder(3, 5, 5, True)]
)
def test_every_channel_has_a_slot_of_its_own(order):
    channels = np.arange(order.groups * order.size)
    slots = order.slot(channels)
    assert len(set(slots)) == channels.size
    assert slots.max() < order.groups * order.stride
    back, exists = order.channel(slots)
    np.testing.assert_array_equal(back, channels)
    assert all(np.all(e) for e in exists)
    others = np.setdiff1d(np.arange(blocks_of(channels.size, 8, order) * 8), slots)
    assert not np.any(np.logical_and(*order.channel(others)[1]))


@pytest.mark.parametrize("order", [None, ChannelOrder(4, 6, 8)])
def test_a_shuffle_transposes_the_channels(order):
    memory = np.full(32, -1)
    memory[np.arange(24) if order is None else order.slot(np.arange(24))] = np.arange(24)
    seen = memory[shuffled(24, 4, order).slot(np.arange(24))]
    np.testing.assert_array_equal(seen, np.arange(24).reshape(4, 6).T.ravel())


def test_shuffles_without_a_form_are_left_to_copies():
    assert shuffled(24, 4, ChannelOrder(4, 6, 8, True)) is None
    assert shuffled(24, 2, ChannelOrder(4, 6, 8)) is None
