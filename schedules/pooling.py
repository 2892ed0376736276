"""Windowed maxima and averages, over NCHW and packed NCHW[c]c activations.

Packed: lanes are channels. Unpacked: lanes are neighbouring columns. The window's taps are
unrolled, and the result stays in registers until the epilogue stores it. Padding is a condition of
the tap; rows and columns are cut at the borders, so that the inside has none.
"""

from __future__ import annotations

import math

from compiler.codegen.vector_loops import CUT
from compiler.target import Target
from schedules.access import axes_of, element_bits, is_elementwise, is_reduction, spatial_extents
from schedules.blocks import PARALLEL_GRAIN, Block, Schedule, extent, iterations
from schedules.choices import Chooser
from schedules.depthwise import RowTile, choose_row_tile, row_tiles
from schedules.nests import UNROLLED_TAPS
from schedules.stages import inline_cheap_blocks, kept_blocks, schedule_stages


def apply(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str] | None:
    """Schedule a function with one windowed reduction of one tensor; None for any other."""
    reductions = [block for block in kept_blocks(sch) if is_reduction(sch, block)]
    if len(reductions) != 1 or not _is_windowed(sch, reductions[0]):
        return None
    inline_cheap_blocks(sch)
    if _is_tiled(sch, target):
        return _tile(sch, target, choose)
    return schedule_stages(sch, target, "pooling", choose)


def _is_windowed(sch: Schedule, block: Block) -> bool:
    """Whether some spatial axis slides along the same dimension as a reducing one."""
    axes = axes_of(sch, block)
    if any(len(a.loads) != 1 for a in axes):
        return False
    spatial = {a.loads[0] for a in axes if not a.reduces and a.extent > 1 and a.loads[0]}
    taps = {a.loads[0] for a in axes if a.reduces and a.extent > 1 and a.loads[0]}
    return any(s % t == 0 and s // t <= 8 for s in spatial for t in taps)


def _is_tiled(sch: Schedule, target: Target) -> bool:
    """Whether a tile of neighbouring vectors of channels shares what its windows load."""
    first, *rest = kept_blocks(sch)
    if len(rest) > 1 or not is_reduction(sch, first):
        return False
    shape = spatial_extents(sch, first)
    taps = [int(v.dom.extent) for v in sch.get(first).iter_vars[len(shape) :]]
    if target.arch != "aarch64" or len(shape) != 5:
        return False
    if shape[4] != target.vector.lanes(element_bits(sch, first)):
        return False
    if any(not is_elementwise(sch, b) or spatial_extents(sch, b) != shape for b in rest):
        return False
    # Only whole planes can be shared among cores.
    small = iterations(sch, first) < PARALLEL_GRAIN
    return (
        len(taps) == 2
        and math.prod(taps) <= UNROLLED_TAPS
        and (small or shape[0] * shape[1] >= target.cores)
    )


def _tile(sch: Schedule, target: Target, choose: Chooser) -> dict[str, str]:
    """Neighbours along a row in registers; rows and tiles at the borders get their own code."""
    window, *rest = kept_blocks(sch)
    work = iterations(sch, window)
    result = rest[0] if rest else sch.cache_write(window, 0, "global")
    n, block, oh, ow, lane = sch.get_loops(result)
    # In registers of float32.
    width, lanes = extent(sch, ow), target.vector.lanes()
    others = map(RowTile, row_tiles(target, width, lanes))
    rows = choose(sch, RowTile(choose_row_tile(target, width, lanes)), others).rows
    ow_outer, ow_inner = sch.split(ow, [None, rows])
    tasks = sch.fuse(n, block)
    sch.compute_at(window, ow_outer, preserve_unit_loops=True)
    *_, w, k, kh, kw = sch.get_loops(window)
    sch.reorder(kh, kw, w, k)
    for loop in (w, kw, kh, ow_inner):
        sch.unroll(loop)
    for loop in (k, lane):
        sch.vectorize(loop)
    for loop in (oh, ow_outer):
        sch.annotate(loop, CUT, 1)
    shared = work >= PARALLEL_GRAIN and extent(sch, tasks) > 1
    if shared:
        sch.parallel(tasks)
    sch.decompose_reduction(window, kh)
    return {
        "template": "pooling",
        "decision": f"tile {rows}",
        "parallel": "yes" if shared else "no",
    }
