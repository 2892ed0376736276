"""How narrow operands lie so that one instruction (or two) adds up products of neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.target import Target

# 255 * 128 is the largest sum of two products that int16 holds.
MOST_UNSATURATED = 128
BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class DotLayout:
    """Layout of the operands of a sum of products of bytes, or of bfloat16.

    Args:
        block: channels that lie together in activations.
        group: neighbouring input channels that one step of the reduction takes; weights lie as
            [..., block, group].
        activation: "uint8", "int8" or "bfloat16", as they are stored.
        operand: what the products take; "int16" where the activations are widened beforehand.
        most_neighbours: bound of the sum of two neighbouring weights, and of its negative; None
            where all weights will do.
        fewest: channels that an input of few may have in a block; where that is no whole group,
            one takes neighbouring pixels of a row, too, and weights for those taps.
        pairs_taps: whether products of int8 add up in int16 (widening multiply-adds), as depthwise
            convolutions want.
        part: neighbours of a group whose weights for one output channel lie together, where these
            are not all; the parts are added up before they are widened to int32.
        cost: of one step of the reduction for a whole block, in time of float multiply-adds.
        takes_lanes: whether inputs are loaded as vectors, of which each step takes one part.
        pairs_pixels: one instruction multiplies two pixels by two channels.
    """

    block: int
    group: int
    activation: str
    operand: str
    most_neighbours: int | None = None
    fewest: int = 0
    pairs_taps: bool = False
    part: int = 0
    cost: int = 1
    takes_lanes: bool = False
    pairs_pixels: bool = False

    @property
    def sums(self) -> str:
        """dtype of the sums."""
        return "float32" if self.operand == BFLOAT16 else "int32"

    @property
    def parts(self) -> int:
        """Parts of a group; weights lie as [..., parts, block, group / parts] if there are more."""
        return self.group // self.part if self.part else 1

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
        sums = joined(weight.astype("int32"), 1, self.parts)
        largest = (np.maximum(sign * sums, 0).sum(axis=-1).max(initial=0) for sign in (1, -1))
        return all(total <= self.most_neighbours for total in largest)


def joined(weight: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """Weights whose products are added in int16, along a last axis of 2 * parts.

    Channels 0 and 1, 2 and 3, ... of four are neighbours; several parts of four add up theirs.

    Returns:
        [..., groups, 2, 2 * parts] for the input channels of ``axis``, which go to the end; zeros
        fill the last group.
    """
    last = np.moveaxis(weight, axis, -1)
    group = 4 * parts
    last = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, -last.shape[-1] % group)])
    split = last.reshape(*last.shape[:-1], -1, parts, 2, 2)
    return split.swapaxes(-3, -2).reshape(*split.shape[:-3], 2, 2 * parts)


def separated(joined: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of ``joined``: weights of a shape."""
    parts = joined.shape[-1] // 2
    split = joined.reshape(*joined.shape[:-1], parts, 2).swapaxes(-3, -2)
    last = split.reshape(*split.shape[:-4], -1)[..., : shape[axis]]
    return np.moveaxis(last, -1, axis)


def dot_layouts(target: Target) -> tuple[DotLayout, ...]:
    """The layouts that the target has instructions for, the fastest first."""
    families = {"x86_64": _x86, "aarch64": _neon, "arm": _neon, "riscv64": _riscv}
    return families[target.arch](target) if target.arch in families else ()


def bfloat16_layouts(target: Target) -> tuple[DotLayout, ...]:
    """The layouts of products of bfloat16 that the target has instructions for."""
    if not target.has_bfloat16:
        return ()
    if target.arch == "x86_64":
        return (DotLayout(target.vector.lanes(), 2, BFLOAT16, BFLOAT16),)
    pairs = DotLayout(16, 4, BFLOAT16, BFLOAT16, fewest=4, pairs_pixels=True)
    return (pairs, DotLayout(16, 2, BFLOAT16, BFLOAT16, takes_lanes=True))


def wide_layouts(target: Target) -> tuple[DotLayout, ...]:
    """The layouts for activations of 16 bits beside weights of 8, the fastest first.

    AArch64 multiplies int16 by int16 no faster than float32 by float32.
    """
    if target.arch == "x86_64":
        block = max(8, target.vector.lanes())
        return (DotLayout(block, 2, "int16", "int16", cost=block // max(1, target.vector.lanes())),)
    if target.loads_register_groups:
        return (DotLayout(2 * target.vector.lanes(), 1, "int16", "int16"),)
    return ()


def activation_dtype(target: Target) -> str:
    """What quantised activations are stored as: what the products of bytes take."""
    return "uint8" if target.arch == "x86_64" else "int8"


def has_vnni(target: Target) -> bool:
    """Whether an x86-64 CPU adds products to int32 in one instruction."""
    return bool({"+avx512vnni", "+avxvnni"} & set(target.features))


def wide_pays(target: Target) -> bool:
    """Whether products of 16 bits by 8 take clearly less time than those of floats.

    vpmaddwd and an addition multiply 16 pairs where fma multiplies 8, but AVX2 kernels of both took
    the same time, with a sum in each register and a register more for each product.
    """
    return bool(wide_layouts(target)) and (target.arch != "x86_64" or has_vnni(target))


def _x86(target: Target) -> tuple[DotLayout, ...]:
    block = max(8, target.vector.lanes())
    uses = block // max(1, target.vector.lanes())
    if has_vnni(target):
        return (DotLayout(block, 4, "uint8", "uint8", cost=uses),)
    # vpmaddwd takes widened operands and is exact for all of them. Additions cost nothing beside
    # multiplications: they have ports of their own.
    widened = DotLayout(block, 2, "uint8", "int16", cost=uses)
    if target.vector.bits < 256:
        return (widened,)
    # vpmaddubsw saturates its sums of two products, so it is for weights whose sums cannot.
    pairs = DotLayout(block, 4, "uint8", "uint8", MOST_UNSATURATED, cost=2 * uses)
    several = DotLayout(block, 8, "uint8", "uint8", MOST_UNSATURATED, part=4, cost=3 * uses)
    return (several, pairs, widened)


def _neon(target: Target) -> tuple[DotLayout, ...]:
    if not target.vector.bits:
        return ()
    if "+dotprod" in target.features:
        four = DotLayout(16, 4, "int8", "int8", pairs_taps=True, cost=4, takes_lanes=True)
        if "+i8mm" in target.features:
            eight = DotLayout(16, 8, "int8", "int8", fewest=4, pairs_taps=True, pairs_pixels=True)
            return (eight, four)
        return (four,)
    # Where NEON computes one float a cycle, products of bytes take half the time of others.
    cost = 24 if target.arch == "arm" else 48
    return (DotLayout(16, 16, "int8", "int8", fewest=4, pairs_taps=True, cost=cost),)


def _riscv(target: Target) -> tuple[DotLayout, ...]:
    # vwmacc: a register of int16 times one scalar, added to two registers of int32.
    if not target.loads_register_groups:
        return ()
    return (DotLayout(2 * target.vector.lanes(), 1, "int8", "int8"),)
