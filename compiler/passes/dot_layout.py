"""How 8-bit operands lie so that one instruction (or two) adds up products of neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.target import Target

# 255 * 128 is the largest sum of two products that int16 holds.
MOST_UNSATURATED = 128


@dataclass(frozen=True)
class DotLayout:
    """Layout of the operands of an integer sum of products.

    Args:
        block: channels that lie together in activations.
        group: neighbouring input channels that one step of the reduction takes; weights lie as
            [..., block, group].
        activation: "uint8" or "int8", as they are stored.
        operand: what the products take; "int16" where the activations are widened beforehand.
        most_neighbours: bound of the sum of two neighbouring weights, and of its negative; None
            where all weights will do.
        fewest: channels that an input of few may have in a block; where that is no whole group,
            one takes neighbouring pixels of a row, too, and weights for those taps.
        pairs_taps: whether products of int8 add up in int16 (widening multiply-adds), as depthwise
            convolutions want.
    """

    block: int
    group: int
    activation: str
    operand: str
    most_neighbours: int | None = None
    fewest: int = 0
    pairs_taps: bool = False

    def input_block(self, channels: int, dilation: int) -> int:
        """Channels that lie together in an input that is packed for this."""
        if self.group == 1:
            return 1
        if channels <= self.fewest and dilation == 1:
            return self.fewest
        return min(-(-channels // self.group) * self.group, self.block)

    def takes(self, weight: np.ndarray) -> bool:
        """Whether sums are exact for int8 weights [OC, IC, ...]."""
        if self.most_neighbours is None:
            return True
        wide = np.pad(weight.astype("int32"), [(0, 0), (0, 1)] + [(0, 0)] * (weight.ndim - 2))
        for sign in (1, -1):
            part = np.maximum(sign * wide, 0)
            if (part[:, :-1:2] + part[:, 1::2]).max(initial=0) > self.most_neighbours:
                return False
        return True


def dot_layouts(target: Target) -> tuple[DotLayout, ...]:
    """The layouts that the target has instructions for, the fastest first."""
    families = {"x86_64": _x86, "aarch64": _neon, "arm": _neon, "riscv64": _riscv}
    return families[target.arch](target) if target.arch in families else ()


def activation_dtype(target: Target) -> str:
    """What quantised activations are stored as: what the products of bytes take."""
    return "uint8" if target.arch == "x86_64" else "int8"


def _x86(target: Target) -> tuple[DotLayout, ...]:
    block = max(8, target.vector.lanes())
    if {"+avx512vnni", "+avxvnni"} & set(target.features):
        return (DotLayout(block, 4, "uint8", "uint8"),)
    # vpmaddwd takes widened operands and is exact for all of them.
    widened = DotLayout(block, 2, "uint8", "int16")
    if target.vector.bits < 256:
        return (widened,)
    # vpmaddubsw saturates its sums of two products, so it is for weights whose sums cannot.
    return (DotLayout(block, 4, "uint8", "uint8", MOST_UNSATURATED), widened)


def _neon(target: Target) -> tuple[DotLayout, ...]:
    if not target.vector.bits:
        return ()
    if "+dotprod" in target.features:
        return (DotLayout(16, 4, "int8", "int8", pairs_taps=True),)
    return (DotLayout(16, 16, "int8", "int8", fewest=4, pairs_taps=True),)


def _riscv(target: Target) -> tuple[DotLayout, ...]:
    # vwmacc: a register of int16 times one scalar, added to two registers of int32.
    if not target.loads_register_groups:
        return ()
    return (DotLayout(2 * target.vector.lanes(), 1, "int8", "int8"),)
