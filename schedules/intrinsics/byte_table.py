"""Bytes looked up in a table of 256: how each target does it, and what one costs.

Every way computes, for each lane l of one or more registers,

    y[l] = table[x[l]]

of unsigned x; ``compiler/codegen/table_lookups.py`` puts it in the place of such loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from compiler.passes.approximations.expansion import Expansion
from compiler.passes.byte_tables import ENTRIES, has_whole_tables
from compiler.target import Target
from schedules.intrinsics import neon_table, rvv_gather, x86_shuffle

Vectors = list[Any]  # expressions


@dataclass(frozen=True)
class ByteTable:
    """One way.

    Args:
        name: for the receipt.
        lanes: bytes looked up by one use.
        least: so many bytes at least, where fewer than ``lanes`` will do as well.
        together: uses in one step of a loop.
        load: what the table lies in, once for many uses, of type uint8.
        look_up: one use, of what was loaded and positions of type uint8.
    """

    name: str
    lanes: int
    least: int
    together: int
    load: Callable[[tirx.Buffer, Expansion], Vectors]
    look_up: Callable[[Sequence[tirx.PrimExpr], tirx.PrimExpr, Expansion], tirx.PrimExpr]


def byte_table(target: Target) -> ByteTable | None:
    """The way of a target; None where one byte after the other is loaded."""
    bits, arch = target.vector.bits, target.arch
    if arch == "aarch64" and bits:
        lanes = neon_table.BYTES
        return ByteTable(
            "neon_tbl",
            lanes,
            lanes,
            4,
            lambda table, code: _registers(table, lanes, code),
            lambda table, x, code: neon_table.look_up(table, x, code),
        )
    if arch == "x86_64" and bits >= 256:
        lanes = bits // 8
        return ByteTable(
            "x86_pshufb",
            lanes,
            lanes,
            1,
            lambda table, code: _steps(table, lanes, code),
            lambda steps, x, code: x86_shuffle.look_up(lanes, steps, x, code),
        )
    if has_whole_tables(target):
        return ByteTable(
            "rvv_vrgather",
            ENTRIES,
            bits // 8,
            1,
            lambda table, code: _registers(table, ENTRIES, code),
            lambda table, x, code: rvv_gather.look_up(bits, table[0], x, vector_lanes(x)),
        )
    return None


def _registers(table: tirx.Buffer, lanes: int, code: Expansion) -> Vectors:
    return [code.let(vector) for vector in _parts(table, lanes)]


def _steps(table: tirx.Buffer, lanes: int, code: Expansion) -> Vectors:
    block = x86_shuffle.BLOCK
    positions = [tirx.IntImm("int32", i) for i in range(lanes)]
    copies = lanes // block
    blocks = [code.let(tirx.Shuffle([v] * copies, positions)) for v in _parts(table, block)]
    return x86_shuffle.tables(blocks, code)


def _parts(table: tirx.Buffer, lanes: int) -> Vectors:
    """The table in vectors."""
    one = tirx.IntImm("int32", 1)
    vectors = [
        tirx.BufferLoad(table, [tirx.Ramp(tirx.IntImm("int32", start), one, lanes)])
        for start in range(0, ENTRIES, lanes)
    ]
    return [tirx.reinterpret(f"uint8x{lanes}", v) for v in vectors]


def vector_lanes(x: tirx.PrimExpr) -> int:
    """Elements of a value."""
    return tvm.DataType(str(x.ty.dtype)).lanes
