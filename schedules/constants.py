"""Constants in the order in which a schedule reads them.

A template may want another memory layout of a parameter whose value is known when compiling. It
asks for it here; code generation rearranges the value before it is written to the library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm_ffi
from tvm import s_tir, tirx

from schedules.blocks import Block, Schedule

# Function attribute: positions of the parameters whose values are known when compiling.
CONSTANT_INPUTS = "edgecc.constant_inputs"
# Annotation of the root block: rows of [position, padding, rank, *shape, *axes], see Rearrangement.
_REARRANGED = "edgecc.rearranged"


@dataclass(frozen=True)
class Rearrangement:
    """``value.reshape(shape).transpose(axes)`` is what the scheduled function reads.

    Args:
        padding: zeros to put behind dimension 0 before.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    padding: int = 0

    def apply(self, value: np.ndarray) -> np.ndarray:
        """The value in the memory order of the schedule."""
        value = np.pad(value, [(0, self.padding), *[(0, 0)] * (value.ndim - 1)])
        return np.ascontiguousarray(value.reshape(self.shape).transpose(self.axes))


def rearrange_constant(
    sch: Schedule, block: Block, read: int, factors: Mapping[int, Sequence[int]], axes: list[int]
) -> bool:
    """Change the memory layout of a block's constant operand, before any loop is split.

    Args:
        read: which of the block's reads.
        factors: dimensions to split -> extents of all parts but the outermost. They must divide
            the dimensions; only dimension 0 is padded where they don't.
        axes: order of all parts, numbered from the outermost of dimension 0 on.

    Returns:
        False, without a change, where the operand is not a parameter with a known value.
    """
    position = _constant_position(sch, block, read)
    if position is None:
        return False
    source = sch.get(block).reads[read].source
    extents = [int(d) for d in source.ty.shape]
    padding = -extents[0] % math.prod(factors.get(0, []))
    extents[0] += padding
    parts = [
        [extent // math.prod(inner), *inner]
        for extent, inner in ((e, list(factors.get(d, []))) for d, e in enumerate(extents))
    ]
    shape = [extent for part in parts for extent in part]

    def index_map(*indices: tirx.PrimExpr) -> list[tirx.PrimExpr]:
        split = [p for index, part in zip(indices, parts, strict=True) for p in _split(index, part)]
        return [split[axis] for axis in axes]

    # Nothing reads what is padded, so that no value has to be assumed for it.
    sch.transform_layout(block, ("read", read), index_map, assume_injective_transform=padding > 0)
    row = [position, padding, len(shape), *shape, *axes]
    sch.annotate(sch.get_sblock("root"), _REARRANGED, row)
    return True


def is_constant(sch: Schedule, block: Block, read: int) -> bool:
    """Whether a block's operand is a parameter with a known value."""
    return _constant_position(sch, block, read) is not None


def _constant_position(sch: Schedule, block: Block, read: int) -> int | None:
    """Which parameter with a known value the operand is."""
    func = sch.mod["main"]
    source = sch.get(block).reads[read].source
    position = next((i for i, p in enumerate(func.params) if p.same_as(source)), None)
    known = [int(i) for i in func.attrs.get(CONSTANT_INPUTS, [])]
    return position if position in known else None


def _split(index: tirx.PrimExpr, extents: list[int]) -> list[tirx.PrimExpr]:
    """Coordinates of a flat index in parts of these extents."""
    parts = []
    for position, extent in enumerate(extents):
        inner = math.prod(extents[position + 1 :])
        part = index if inner == 1 else tirx.floordiv(index, inner)
        parts.append(part if position == 0 else tirx.floormod(part, extent))
    return parts


def rearrangements(func: tirx.PrimFunc) -> dict[int, Rearrangement]:
    """The layouts that a scheduled function wants, by position of the parameter."""
    found: list[list[int]] = []

    def visit(block: s_tir.SBlock) -> None:
        if _REARRANGED in block.annotations:
            found.append([int(x) for x in block.annotations[_REARRANGED]])

    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, visit)])
    return {
        position: Rearrangement(tuple(rest[:rank]), tuple(rest[rank:]), padding)
        for position, padding, rank, *rest in found
    }
