"""Where channels lie when they are not packed one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChannelOrder:
    """Channels in groups that each start at a multiple of ``stride`` slots.

    A channel shuffle, which transposes [groups, size] channels, changes the order and moves
    nothing.

    Args:
        groups, size: how many groups there are, and channels in each.
        stride: slots of a group, at least ``size``.
        shuffled: whether channel i is member i // groups of group i % groups, instead of member
            i % size of group i // size.
    """

    groups: int
    size: int
    stride: int
    shuffled: bool = False

    def slot(self, channel: Any) -> Any:
        """The slot of a channel (integers, arrays of them, or expressions)."""
        if self.shuffled:
            return channel % self.groups * self.stride + channel // self.groups
        return channel // self.size * self.stride + channel % self.size

    def channel(self, slot: Any) -> tuple[Any, tuple[Any, Any]]:
        """The channel of a slot, and the two conditions under which there is one."""
        group, member = slot // self.stride, slot % self.stride
        channel = member * self.groups + group if self.shuffled else group * self.size + member
        return channel, (member < self.size, group < self.groups)


def blocks_of(channels: int, block: int, order: ChannelOrder | None) -> int:
    """Blocks that the slots of all channels fill."""
    slots = channels if order is None else order.groups * order.stride
    return -(-slots // block)


def blocks_of_groups(size: int, lanes: int) -> tuple[int, bool]:
    """Channels of a block that do not reach across groups, and whether groups are padded to it.

    Args:
        size: channels of a group.
        lanes: the largest block.
    """
    block = math.gcd(lanes, size)
    stride = -(-size // lanes) * lanes
    return (block, False) if stride * block >= size * lanes else (lanes, True)


def shuffled(channels: int, groups: int, order: ChannelOrder | None) -> ChannelOrder | None:
    """The order after a transposition of [groups, channels / groups]; None where it has no form."""
    if order is None:
        return ChannelOrder(groups, channels // groups, channels // groups, shuffled=True)
    if order.shuffled or order.groups != groups:
        return None
    return ChannelOrder(groups, order.size, order.stride, shuffled=True)
