"""Grouped convolutions of bytes: where the channels lie that each group multiplies.

One instruction takes a step of neighbouring channels. Groups begin and end anywhere, so each reads
the steps that hold any of its channels, and weights are zero for the other channels there. Groups
that are shorter than a block of output channels join others to one, with zeros between them, where
that costs no more than to pad each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from compiler.passes.channel_order import ChannelOrder, blocks_of, blocks_of_groups
from compiler.passes.dot_layout import DotLayout
from compiler.passes.packed_values import Packed

# Of the steps that whole vectors of inputs take beside those that are needed: loads are fewer.
WHOLE_VECTORS = 1.2


@dataclass(frozen=True)
class Groups:
    """The input channels that each group of a convolution reads, in whole steps.

    A group's channels lie in one or more runs of neighbouring slots.

    Args:
        count: groups of output channels; no block of these belongs to two.
        per_step: channels of one step.
        steps: of each run.
        runs: of a group.
        apart: steps from the beginning of a run to that of the next one.
        pitch, divisor: the first run of group g begins in slot g * pitch // divisor.
        last: the first step of a first run, at most.
        together: steps that are read at once; runs consist of whole ones.
    """

    count: int
    per_step: int
    steps: int
    runs: int
    apart: int
    pitch: int
    divisor: int
    last: int
    together: int = 1

    def first(self, group: Any) -> Any:
        """The first step of a group (integers, arrays or expressions)."""
        whole = self.per_step * self.together
        step = group * self.pitch // self.divisor // whole * self.together
        return tirx.min(step, self.last) if _is_expr(group) else np.minimum(step, self.last)

    def step(self, group: Any, index: Any) -> Any:
        """Where the input of a group's step lies, in steps."""
        if self.runs == 1:
            return self.first(group) + index
        return index // self.steps * self.apart + self.first(group) + index % self.steps

    def position(self, group: Any, slot: Any) -> Any:
        """The inverse: which of the channels that a group reads lies in a slot."""
        step, lane = slot // self.per_step, slot % self.per_step
        start = self.first(group)
        run = (step - start) // self.apart if self.runs > 1 else 0
        return (run * self.steps + step - start - run * self.apart) * self.per_step + lane

    @property
    def all_steps(self) -> int:
        return self.runs * self.steps


def _is_expr(value: Any) -> bool:
    return not isinstance(value, (int, np.integer, np.ndarray))


@dataclass(frozen=True, eq=False)
class Arrangement:
    """A grouped convolution as the target's instruction takes it.

    Args:
        groups: what is read.
        order: of the result's channels.
        weight: int8 [blocks, steps, KH, KW, c, group].
    """

    groups: Groups
    order: ChannelOrder | None
    weight: np.ndarray

    @property
    def cost(self) -> int:
        """Steps of whole blocks, for each tap and pixel."""
        return self.weight.shape[0] * self.weight.shape[1]

    def suits(self, dot: DotLayout) -> bool:
        """Whether sums are exact with the neighbours that weights have here."""
        return dot.takes(self.weight.reshape(-1, dot.group))


def float_steps(channels: int, inputs: int, groups: int, lanes: int) -> int:
    """Multiply-adds of the same convolution of floats, for each tap and pixel.

    Args:
        channels, inputs: of the result, and of one group of the input.
    """
    block, _ = blocks_of_groups(channels // groups, lanes)
    return groups * -(-(channels // groups) // block) * inputs


def arrange(weight: np.ndarray, groups: int, x: Packed, dot: DotLayout) -> Arrangement | None:
    """The cheapest arrangement; None where the input's channels lie too irregularly.

    Args:
        weight: int8 [OC, IC / groups, KH, KW].
        x: the input, in blocks of whole steps.
    """
    joined = [n for n in range(1, groups + 1) if groups % n == 0 and _fits(weight, groups, n, dot)]
    found = [a for n in joined for a in _joined(weight, groups, n, x, dot)]
    return min(found, key=lambda a: (a.cost, len(a.weight)), default=None)


def _fits(weight: np.ndarray, groups: int, joined: int, dot: DotLayout) -> bool:
    """Whether so many groups fill whole blocks; a group by itself may be padded.

    A shuffle keeps an order whose groups are its own.
    """
    return joined == 1 or len(weight) // groups * joined % dot.block == 0


def _joined(
    weight: np.ndarray, groups: int, joined: int, x: Packed, dot: DotLayout
) -> Iterator[Arrangement]:
    """The arrangement with so many groups as one, if there is any."""
    reads = _reads(groups // joined, x, dot)
    if reads is None:
        return
    if dot.takes_lanes:
        whole = _reads(groups // joined, x, dot, x.block // dot.group)
        if whole is not None and whole.all_steps <= WHOLE_VECTORS * reads.all_steps:
            reads = whole
    channels, count = len(weight), groups // joined
    size = channels // count
    stride = -(-size // dot.block) * dot.block
    order = None if stride == size or count == 1 else ChannelOrder(count, size, stride)
    yield Arrangement(reads, order, _pack(weight, groups, reads, x, dot, order))


def _reads(count: int, x: Packed, dot: DotLayout, together: int = 1) -> Groups | None:
    """How so many groups read an input, in whole multiples of ``together`` steps."""
    channels, order, whole = x.shape[1], x.order, dot.group * together
    size, every = channels // count, x.blocks * x.block // dot.group
    if order is None:
        runs, apart, pitch, divisor, limit = 1, every, size, 1, every
    elif order.stride % whole:
        return None
    elif order.shuffled:
        runs, apart, pitch, divisor = order.groups, order.stride // dot.group, size, order.groups
        limit = apart
    elif order.groups % count == 0:
        runs, apart = order.groups // count, order.stride // dot.group
        pitch, divisor, limit = runs * order.stride, 1, every
    else:
        return None
    ends = [_end(g, count, x) for g in range(count)]
    starts = [g * pitch // divisor // whole for g in range(count)]
    span = max(end // whole - start + 1 for end, start in zip(ends, starts, strict=True))
    steps = span * together
    return Groups(count, dot.group, steps, runs, apart, pitch, divisor, limit - steps, together)


def _end(group: int, count: int, x: Packed) -> int:
    """The last slot of a group's first run."""
    size, order = x.shape[1] // count, x.order
    last = (group + 1) * size - 1
    if order is None:
        return last
    if order.shuffled:
        return last // order.groups
    return group * (order.groups // count) * order.stride + order.size - 1


def _pack(
    weight: np.ndarray,
    groups: int,
    reads: Groups,
    x: Packed,
    dot: DotLayout,
    order: ChannelOrder | None,
) -> np.ndarray:
    """[OC, IC / groups, KH, KW] -> [blocks, steps, KH, KW, c, group]."""
    channels, size, *kernel = weight.shape
    out = np.arange(channels)[:, None]
    source = out // (channels // groups) * size + np.arange(size)
    slot = source if x.order is None else x.order.slot(source)
    position = reads.position(out // (channels // reads.count), slot)
    blocks = blocks_of(channels, dot.block, order)
    shape = (blocks * dot.block, reads.all_steps * dot.group, *kernel)
    packed = np.zeros(shape, "int8")
    packed[out if order is None else order.slot(out), position] = weight
    packed = packed.reshape(blocks, dot.block, reads.all_steps, dot.group, *kernel)
    return np.ascontiguousarray(packed.transpose(0, 2, 4, 5, 1, 3))
