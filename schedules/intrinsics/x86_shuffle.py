"""vpshufb: bytes looked up in 16 by the low bits of an index; zero where its highest bit is set.

A step looks x - 16 k up in a table t[k] and adds what it finds by xor. Step k finds something
where 0 <= x - 16 k < 128: of x in block b = x / 16, steps b - 7 to b do. So their sum is entry
T[b] of the table where

    t[b] = T[b] ^ t[b - 1] ^ ... ^ t[b - 7] = T[b] ^ T[b - 1] ^ t[b - 8]

with nothing for negative positions. Beyond 8 subtractions x is at most 127 and negative where it
is to find nothing; subtractions that saturate keep it so.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion
from schedules.intrinsics.description import llvm

BLOCK = 16
# Steps that find something for one index.
_REACH = 8
_SHUFFLE = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


def tables(blocks: Sequence[tirx.PrimExpr], code: Expansion) -> list[tirx.PrimExpr]:
    """The tables of the steps, in each block of a register, from the 16 blocks of a table."""
    found: list[tirx.PrimExpr] = []
    for b, block in enumerate(blocks):
        step = block if b == 0 else block ^ blocks[b - 1]
        found.append(code.let(step if b < _REACH else step ^ found[b - _REACH]))
    return found


def look_up(
    lanes: int, steps: Sequence[tirx.PrimExpr], x: tirx.PrimExpr, code: Expansion
) -> tirx.PrimExpr:
    """Bytes of a table at the positions ``x``, from the tables of its steps."""
    dtype = f"uint8x{lanes}"
    sixteen = code.const(BLOCK, "uint8")
    y = code.let(llvm(_SHUFFLE[lanes], dtype, steps[0], x))
    for k, step in enumerate(steps[1:], start=1):
        if k <= _REACH:
            x = code.let(x - sixteen)
        else:
            x = code.let(llvm(f"llvm.ssub.sat.v{lanes}i8", dtype, x, sixteen))
        y = code.let(y ^ llvm(_SHUFFLE[lanes], dtype, step, x))
    return y
