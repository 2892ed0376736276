"""Sums of products of neighbouring bytes: which intrinsic a target has, and what one costs.

Every intrinsic computes, for each lane l of one register (or two) of int32,

    sums[l] += sum over g of x[g] * w[l, g]

and its description in TIR says so; ``tests/schedules/test_intrinsics.py`` runs both.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.passes.dot_layout import DotLayout, dot_layout
from compiler.target import Target
from schedules.intrinsics.x86_madd import madd
from schedules.intrinsics.x86_vnni import vnni


@dataclass(frozen=True)
class Dot:
    """One intrinsic.

    Args:
        name: in TVM's table of intrinsics.
        lanes: int32 sums of one use.
        instructions: arithmetic of one use, with loads of sums and operands already in registers.
        accumulators: registers of the sums of one use.
        weight_loads: instructions that bring the weights of one use.
        temporaries: registers beside sums, weights and one broadcast input.
    """

    name: str
    lanes: int
    instructions: int
    accumulators: int = 1
    weight_loads: int = 1
    temporaries: int = 1


def dot_product(target: Target) -> tuple[Dot, DotLayout] | None:
    """The best intrinsic of a target with the layout of its operands; None where there is none."""
    layout = dot_layout(target)
    if layout is None:
        return None
    lanes = target.vector.lanes()
    if layout.operand == "uint8":
        return Dot(vnni(lanes), lanes, instructions=1, temporaries=0), layout
    return Dot(madd(lanes), lanes, instructions=2, weight_loads=2), layout
