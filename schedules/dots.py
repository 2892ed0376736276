"""What templates of integer sums share: from loops to intrinsics."""

from __future__ import annotations

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import Block, Loop
from schedules.intrinsics.dot import Dot, dot_product


def find_dot(sch: s_tir.Schedule, target: Target, anchor: Block) -> Dot | None:
    """The intrinsic for the operands of an anchor, whose last iterator is the group."""
    operand = str(sch.get(anchor).reads[0].source.ty.dtype)
    return dot_product(target, operand, int(sch.get(anchor).iter_vars[-1].dom.extent))


def order_dots(
    sch: s_tir.Schedule, dot: Dot, reduction: list[Loop], tile: list[Loop], group: Loop
) -> None:
    """Order the loops of an anchor for the intrinsic, and unroll the tile.

    Args:
        reduction: all its loops but the group, outermost first.
        tile: of rows, of columns and of the lanes of a column.
    """
    *tile, lanes = tile
    vectors, lanes = sch.split(lanes, [None, dot.lanes])
    sch.reorder(*reduction, *tile, vectors, lanes, group)
    for loop in (*tile, vectors):
        sch.unroll(loop)


def use_intrinsic(sch: s_tir.Schedule, anchor: Block, dot: Dot, outermost: Loop) -> None:
    """Replace the innermost loops, as ``order_dots`` left them, by the intrinsic.

    Args:
        outermost: loop of the reduction.
    """
    *loops, lanes = sch.get_loops(sch.decompose_reduction(anchor, outermost))[-4:]
    sch.vectorize(lanes)
    for loop in loops:
        sch.unroll(loop)
    # A block of its own takes the guard of ragged rows, which the intrinsic knows nothing of.
    sch.blockize(sch.get_loops(anchor)[-2])
    sch.tensorize(sch.get_loops(anchor)[-2], dot.name)
