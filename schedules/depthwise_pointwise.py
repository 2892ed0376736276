"""A depthwise convolution and the 1x1 convolution that alone reads it, as one nest.

    parallel block of rows
      for channel_block, row of the block, ow_tile           the depthwise convolution's own nest
        acc[rows] = sum over kh, kw of x * w; epilogue into a buffer of the block
      for column chunks, tiles of the block's pixels         the 1x1 convolution's own nest
        acc[rows][columns] += buffer[...] * w; epilogue

Nothing is computed twice: what the windows of neighbouring blocks share is read twice. The buffer
stays in the cache, where the whole result of the depthwise convolution would go to memory and back.
How many rows make a block, ``compiler/passes/row_blocks.py`` says.
"""

from __future__ import annotations

from tvm import s_tir

from compiler.passes.fuse_depthwise import BLOCK_ROWS
from compiler.passes.packed_ops import ANCHOR
from compiler.target import Target
from schedules import conv2d, conv2d_lanes
from schedules.blocks import Anchored, extent, result_bits
from schedules.choices import Chooser
from schedules.depthwise import choose_row_tile, schedule_in_place


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule what ``passes.fuse_depthwise`` merged; None for any other function."""
    attributes = sch.mod["main"].attrs or {}
    if BLOCK_ROWS not in attributes:
        return None
    rows = int(attributes[BLOCK_ROWS])
    picture, row = _find(sch)
    _, _, height, width, lanes = (extent(sch, loop) for loop in sch.get_loops(picture.output))
    taps = [int(v.dom.extent) for v in sch.get(picture.anchor).iter_vars[5:]]
    _cut_into_blocks(sch, picture, row, rows, width)
    template = conv2d_lanes if target.arch == "aarch64" else conv2d
    pointwise = template.schedule(sch, target, row, choose, by_part=True)
    bits = result_bits(sch, picture.anchor)
    tile = choose_row_tile(target, width, lanes if target.vector.bits else 1, bits=bits)
    schedule_in_place(sch, target, picture, tile, taps, height)
    decision = f"{rows} rows, depthwise tile {tile}, pointwise {pointwise}"
    return {"template": "depthwise_pointwise", "decision": decision}


def _find(sch: s_tir.Schedule) -> tuple[Anchored, Anchored]:
    """Both convolutions, all else but the padding inlined into their epilogues."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    kinds = [sch.get(block).annotations.get(ANCHOR) for block in blocks]
    first, second = kinds.index("depthwise"), kinds.index("conv2d")

    def anchored(position: int, end: int) -> Anchored:
        anchor, *epilogue = blocks[position:end]
        for block in epilogue[:-1]:
            sch.compute_inline(block)
        output = epilogue[-1] if epilogue else sch.cache_write(anchor, 0, "global")
        return Anchored(anchor, output, [])

    picture, row = anchored(first, second), anchored(second, len(blocks))
    picture.stages += blocks[:first]
    return picture, row


def _cut_into_blocks(
    sch: s_tir.Schedule, picture: Anchored, row: Anchored, rows: int, width: int
) -> None:
    """Give blocks of rows an outermost axis of their own, with everything in a loop over it.

    The buffer between both convolutions becomes [block, Cb, 1, rows * width, c], so that extents
    inside a block are known where a ragged tile ends, and pixels are neighbours across rows.
    """
    pixels = rows * width

    def by_rows(n, c, h, w, k):
        return (h // rows, c, h % rows, w, k)

    def by_pixels(n, c, h, p, k):
        return (p // pixels, c, h, p % pixels, k)

    sch.transform_block_layout(picture.output, by_rows)
    sch.transform_block_layout(row.output, by_pixels)
    sch.transform_block_layout(
        row.anchor,
        lambda n, c, h, p, k, co, kh, kw, ci: (*by_pixels(n, c, h, p, k), co, kh, kw, ci),
    )
    sch.transform_layout(row.anchor, ("write", 0), by_pixels)
    sch.transform_layout(picture.output, ("write", 0), by_rows)
    task = sch.get_loops(row.output)[0]
    for block in (row.anchor, picture.output):
        sch.compute_at(block, task, preserve_unit_loops=True)
    # After compute_at, which finds no loops for rows and columns that share an index.
    sch.transform_layout(
        picture.output,
        ("write", 0),
        lambda b, c, h, w, k: (b, c, h // rows, h % rows * width + w, k),
    )
