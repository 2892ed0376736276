"""Local response normalisation on packed layouts: sums of squares across channels.

parallel n, h, tile of w
  squares[w][channels]      (stays in L1)
  for w, channel block
    y = x * f(sum of shifted vectors of squares)
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir

from compiler.passes.packed_ops import ANCHOR
from compiler.target import Target
from schedules.blocks import extent, iterations, spread
from schedules.choices import Chooser

# Pixels whose squares are kept: enough that a store is long done when its neighbours are loaded.
MAX_TILE = 8


@dataclass(frozen=True)
class Tile:
    """What a tuner may choose: pixels whose squares are kept at a time."""

    pixels: int


def apply(sch: s_tir.Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule ``packed_ops.response_norm``; None for any other function."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    output = blocks[-1]
    if sch.get(output).annotations.get(ANCHOR) != "response_norm":
        return None
    squares = blocks[0]
    work = iterations(sch, output) * 8
    n, block, h, w, lane = sch.get_loops(output)
    width, lanes = extent(sch, w), extent(sch, lane)
    fitting = [Tile(t) for t in range(1, MAX_TILE + 1) if width % t == 0]
    tile = choose(sch, fitting[-1], fitting).pixels
    w_outer, w_inner = sch.split(w, [None, tile])
    sch.reorder(n, h, w_outer, w_inner, block, lane)
    sch.compute_at(squares, w_outer, preserve_unit_loops=True)
    *_, channel = sch.get_loops(squares)
    _, channel_lane = sch.split(channel, [None, lanes])
    sch.vectorize(channel_lane)
    sch.vectorize(lane)
    spread(sch, [n, h, w_outer], work)
    return {"template": "response_norm", "decision": f"tile {tile}"}
