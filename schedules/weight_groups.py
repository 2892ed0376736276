"""Weights in groups of vector registers, for cores whose vector length is known (RVV).

RVV loads name no offset, so each needs an addition beside it; but one load fills up to eight
registers, and its members are then used one by one. Constants are put into the order in which a
tile reads them:

    before:  for k, column, row, lane:           acc += x * w[column][k][lane]
    after:   for k / steps, column / columns:
               group[steps, columns, lanes] = w[tile][k / steps][column / columns][...]
               for k % steps, row, column % columns, lane:
                                                 acc += x * group[k % steps][column % columns]
"""

from __future__ import annotations

from schedules.blocks import Block, Loop, Schedule, extent
from schedules.constants import rearrange_constant
from schedules.tiles import MAX_SCALARS, RegisterTile, WeightGroup

# Multiply-accumulate instructions of one round of a loop that is worth unrolling further.
UNROLLED_MACS = 192
# Loads of one round; more addresses than that are kept on the stack.
UNROLLED_LOADS = 8


def rearrange_weights(
    sch: Schedule, anchor: Block, dimension: int, tile: RegisterTile, group: WeightGroup
) -> None:
    """Put constant weights [blocks, ..., lanes] into the order in which groups are loaded.

    Args:
        dimension: of the weights, whose steps are grouped.
    """
    rank = len(sch.get(anchor).reads[1].source.ty.shape)
    factors = {0: [tile.columns // group.columns, group.columns], dimension: [group.steps]}
    # Parts: 0 to 2 are the columns'; the grouped dimension has two.
    outer = [d + 2 + (d > dimension) for d in range(1, rank)]
    lane, step = outer.pop(), dimension + 3
    rearrange_constant(sch, anchor, 1, factors, [0, *outer, 1, step, 2, lane])


def load_groups(
    sch: Schedule,
    anchor: Block,
    group: WeightGroup,
    reduction: list[Loop],
    columns: Loop,
    tile: list[Loop],
) -> Loop:
    """Load weights by groups and unroll.

    Args:
        reduction: its loops; the innermost one's steps are grouped.
        columns: loop inside of the reduction.
        tile: rows and lanes, inside of the columns.

    Returns the outermost loop of the reduction.
    """
    *further, depth = reduction
    rows, lane = tile
    scalars = extent(sch, rows) * group.steps
    macs = scalars * extent(sch, columns)
    outer, step = sch.split(depth, [None, group.steps])
    column_group, column = sch.split(columns, [None, group.columns])
    loads = extent(sch, column_group)
    most = max(1, min(UNROLLED_MACS // macs, MAX_SCALARS // scalars, UNROLLED_LOADS // loads))
    whole = extent(sch, outer)
    unrolled = max(u for u in range(1, most + 1) if whole % u == 0)
    outer, inner = sch.split(outer, [None, unrolled])
    sch.reorder(outer, inner, column_group, step, rows, column, lane)
    weights = sch.cache_read(anchor, 1, "local")
    sch.compute_at(weights, column_group, preserve_unit_loops=True)
    sch.vectorize(sch.fuse(*sch.get_loops(weights)[-3:]))
    for loop in (inner, column_group, step, column):
        sch.unroll(loop)
    loops = [*further, outer]
    around = next((i for i in reversed(range(len(loops))) if extent(sch, loops[i]) > 1), 0)
    rounds = extent(sch, loops[around])
    if unrolled == whole and rounds % 2 == 0 and rounds > 2:
        loops[around], twice = sch.split(loops[around], [None, 2])
        sch.unroll(twice)
    return loops[0]
