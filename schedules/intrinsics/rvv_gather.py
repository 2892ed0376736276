"""vrgather.vv: bytes looked up in a group of registers that holds the whole table.

For registers of known length alone, of at least 256 bits: a group of eight holds a table.
"""

from __future__ import annotations

from tvm import tirx

from compiler.passes.byte_tables import ENTRIES
from schedules.intrinsics.description import llvm

# Bits of a block of registers that LLVM counts scalable vectors in.
_BLOCK = 64


def look_up(bits: int, table: tirx.PrimExpr, x: tirx.PrimExpr, lanes: int) -> tirx.PrimExpr:
    """Bytes of a table at the positions ``x``, of at most as many lanes as a table.

    Args:
        bits: of a vector register.
    """
    multiple = ENTRIES * _BLOCK // bits
    group = f"uint8xvscalex{multiple}"
    nothing = tirx.Broadcast(tirx.const(0, "uint8"), tirx.vscale() * multiple)
    start, length = tirx.const(0, "int64"), tirx.const(lanes, "int64")
    entries = llvm("llvm.vector.insert", group, nothing, table, start)
    positions = llvm("llvm.vector.insert", group, nothing, x, start)
    found = llvm("llvm.riscv.vrgather.vv", group, entries, entries, positions, length)
    return llvm("llvm.vector.extract", f"uint8x{lanes}", found, start)
