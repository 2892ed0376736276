"""Sums of products of neighbours: which intrinsic a target has, and what one costs.

Every intrinsic computes, for each lane l of one register (or two) of int32, or of float32 where
operands are bfloat16,

    sums[l] += sum over g of x[g] * w[l, g]

and its description in TIR says so; ``tests/schedules/test_intrinsics.py`` runs both.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.passes.dot_layout import (
    BFLOAT16,
    bfloat16_layouts,
    dot_layouts,
    has_vnni,
    wide_layouts,
)
from compiler.target import Target
from schedules.intrinsics import neon_mlal
from schedules.intrinsics.neon_bfloat16 import bfdot
from schedules.intrinsics.neon_dot import sdot
from schedules.intrinsics.neon_mlal import collect, mlal
from schedules.intrinsics.x86_bfloat16 import dpbf16
from schedules.intrinsics.x86_madd import madd
from schedules.intrinsics.x86_maddubs import maddubs, maddubs_twice
from schedules.intrinsics.x86_vnni import vnni, vnni_words


@dataclass(frozen=True)
class Dot:
    """One intrinsic.

    Args:
        name: in TVM's table of intrinsics.
        lanes: sums of one use.
        instructions: arithmetic of one use, with loads of sums and operands already in registers.
        accumulators: registers of the sums of one use.
        weight_loads: instructions that bring the weights of one use.
        input_loads: instructions that bring the inputs of one use.
        temporaries: registers beside sums, weights and one broadcast input.
        operand_bytes: of a weight in memory.
        collect: where a use leaves each sum in four parts, the intrinsic that adds these up.
    """

    name: str
    lanes: int
    instructions: int
    accumulators: int = 1
    weight_loads: int = 1
    input_loads: int = 1
    temporaries: int = 1
    collect: str = ""
    operand_bytes: int = 1


def dot_product(target: Target, operand: str, group: int) -> Dot | None:
    """The intrinsic of a target for operands that lie as one of its layouts; None for others.

    Args:
        operand: dtype of the activations as they are multiplied.
        group: products of one sum.
    """
    lanes = target.vector.lanes()
    known = (*dot_layouts(target), *wide_layouts(target), *bfloat16_layouts(target))
    layouts = [d for d in known if (d.operand, d.group) == (operand, group)]
    if not layouts:
        return None
    if operand == BFLOAT16:
        name, width = (dpbf16(lanes), lanes) if target.arch == "x86_64" else (bfdot(), 4)
        return Dot(name, width, instructions=1, temporaries=0, operand_bytes=2)
    if target.arch in ("aarch64", "arm"):
        return _neon(target.arch, group)
    if operand == "int16" and has_vnni(target):
        return Dot(vnni_words(lanes), lanes, instructions=1, weight_loads=2, temporaries=0)
    if operand == "int16":
        return Dot(madd(lanes), lanes, instructions=2, weight_loads=2)
    if layouts[0].parts > 1:
        return Dot(
            maddubs_twice(lanes),
            lanes,
            instructions=5,
            weight_loads=2,
            input_loads=2,
            temporaries=4,
        )
    if layouts[0].most_neighbours is not None:
        return Dot(maddubs(lanes), lanes, instructions=3, temporaries=4)
    return Dot(vnni(lanes), lanes, instructions=1, temporaries=0)


def _neon(arch: str, group: int) -> Dot:
    if group == neon_mlal.GROUP:
        return Dot(mlal(arch), 1, instructions=3, temporaries=2, collect=collect(arch))
    return Dot(sdot(), 4, instructions=1, temporaries=0)
