"""How 8-bit operands lie so that one instruction (or two) adds up products of neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.target import Target


@dataclass(frozen=True)
class DotLayout:
    """Layout of the operands of an integer sum of products.

    Args:
        block: channels that lie together in activations.
        group: neighbouring input channels that one step of the reduction takes; weights lie as
            [..., block, group].
        activation: "uint8" or "int8", as they are stored.
        operand: what the products take; "int16" where the activations are widened beforehand.
    """

    block: int
    group: int
    activation: str
    operand: str


def dot_layout(target: Target) -> DotLayout | None:
    """The layout that the target's instructions want; None where it has none of use."""
    if target.arch == "x86_64":
        return _x86(target)
    return None


def activation_dtype(target: Target) -> str:
    """What quantised activations are stored as: what the products of bytes take."""
    return "uint8" if target.arch == "x86_64" else "int8"


def _x86(target: Target) -> DotLayout:
    if {"+avx512vnni", "+avxvnni"} & set(target.features):
        return DotLayout(max(8, target.vector.lanes()), 4, "uint8", "uint8")
    # vpmaddubsw saturates its sums of two products; vpmaddwd of widened operands is exact and,
    # where multiplications are what ports are short of, as fast.
    return DotLayout(max(8, target.vector.lanes()), 2, "uint8", "int16")
