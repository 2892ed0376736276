"""What templates of integer sums share: from loops to intrinsics."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir

from compiler.target import Target
from schedules.blocks import Block, Loop
from schedules.constants import rearrange_constant
from schedules.intrinsics.dot import Dot, dot_product
from schedules.intrinsics.neon_mlal import LANES


def find_dot(sch: s_tir.Schedule, target: Target, anchor: Block) -> Dot | None:
    """The intrinsic for the operands of an anchor, whose last iterator is the group."""
    operand = str(sch.get(anchor).reads[0].source.ty.dtype)
    return dot_product(target, operand, int(sch.get(anchor).iter_vars[-1].dom.extent))


def tile_weights(sch: s_tir.Schedule, anchor: Block, steps: int, columns: int) -> None:
    """[OCb, steps, KH, KW, c, group] -> [OCb, tile, block, KH, KW, step, c of the tile, group].

    Args:
        anchor: a convolution whose second operand are constant weights.
        steps: of a block.
        columns: channels of a tile.
    """
    rearrange_constant(sch, anchor, 1, {1: [steps], 4: [columns]}, [0, 5, 1, 3, 4, 2, 6, 7])


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


def use_intrinsic(
    sch: s_tir.Schedule, anchor: Block, intrinsic: str, outermost: Loop, loops: int = 2
) -> None:
    """Replace the innermost loops, as ``order_dots`` left them, by the intrinsic.

    Args:
        outermost: loop of the reduction.
        loops: how many are replaced.
    """
    *tile, lanes = sch.get_loops(sch.decompose_reduction(anchor, outermost))[-4:]
    sch.vectorize(lanes)
    for loop in tile:
        sch.unroll(loop)
    # A block of its own takes the guard of ragged rows, which the intrinsic knows nothing of.
    sch.blockize(sch.get_loops(anchor)[-loops])
    sch.tensorize(sch.get_loops(anchor)[-loops], intrinsic)


@dataclass(frozen=True)
class Parts:
    """Sums in four parts each, and the anchor that adds these up.

    Args:
        block: computes the parts; its loops inside of the task are ``[part, *tile, *reduction,
            high, low]``, the last two over the products of one part.
        depth: loops around these.
        outermost: of the anchor's loops inside of the task.
    """

    block: Block
    depth: int
    outermost: Loop


def sum_in_parts(sch: s_tir.Schedule, anchor: Block, task: Loop) -> Parts:
    """Let a new block compute the parts of each sum, as ``Dot.collect`` takes them.

    Args:
        anchor: its innermost loop is the group.
        task: loop of the output that both go under.
    """
    rank = len(sch.get(anchor).writes[0].region)
    _, part, _ = sch.split(sch.get_loops(anchor)[-1], [None, LANES, 2])
    block = sch.rfactor(part, rank)
    sch.compute_at(anchor, task, preserve_unit_loops=True)
    part, *tile, lanes = sch.get_loops(anchor)[-rank - 1 :]
    vector, lanes = sch.split(lanes, [None, LANES])
    sch.reorder(*tile, vector, lanes, part)
    for loop in (*tile, vector):
        sch.unroll(loop)
    sch.compute_at(block, task, preserve_unit_loops=True)
    return Parts(block, len(sch.get_loops(anchor)) - rank - 2, tile[0])


def order_parts(sch: s_tir.Schedule, parts: Parts) -> Loop:
    """Order the loops of ``[rows, columns, lanes]`` sums in parts; returns the reducing one."""
    part, *_, r, c, k, step, high, low = sch.get_loops(parts.block)[parts.depth :]
    sch.reorder(step, r, c, k, part, high, low)
    for loop in (r, c, k):
        sch.unroll(loop)
    return step


def multiply_pairs(sch: s_tir.Schedule, anchor: Block, outermost: Loop, intrinsic: str) -> None:
    """Start the sums of 2 x 2 in registers in front of a loop, and add to them by an intrinsic."""
    start = sch.decompose_reduction(anchor, outermost)
    *_, pairs, channels, side, channel = sch.get_loops(start)
    sch.vectorize(sch.fuse(side, channel))
    for loop in (pairs, channels):
        sch.unroll(loop)
    # A block of its own takes the guard of ragged rows, which the intrinsic knows nothing of.
    sch.blockize(sch.get_loops(anchor)[-3])
    sch.tensorize(sch.get_loops(anchor)[-3], intrinsic)
