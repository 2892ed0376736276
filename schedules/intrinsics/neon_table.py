"""tbl and tbx: bytes looked up in up to four registers; one beyond them leaves what was there.

Four registers hold a quarter of the table. What was looked up so far stays where an index, counted
from the start of the next quarter, lies outside of it:

    y = tbl(quarter 0, x);  y = tbx(y, quarter 1, x - 64);  ...
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion
from schedules.intrinsics.description import llvm

REGISTERS = 4
# Of a register.
BYTES = 16
_FIRST = "llvm.aarch64.neon.tbl4.v16i8"
_OTHERS = "llvm.aarch64.neon.tbx4.v16i8"


def look_up(table: Sequence[tirx.PrimExpr], x: tirx.PrimExpr, code: Expansion) -> tirx.PrimExpr:
    """Bytes of a table in registers at the positions ``x``."""
    dtype = f"uint8x{BYTES}"
    y = code.let(llvm(_FIRST, dtype, *table[:REGISTERS], x))
    for start in range(REGISTERS, len(table), REGISTERS):
        x = code.let(x - code.const(REGISTERS * BYTES, "uint8"))
        y = code.let(llvm(_OTHERS, dtype, y, *table[start : start + REGISTERS], x))
    return y
