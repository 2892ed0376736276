"""vpmaddubsw: products of uint8 and int8, neighbours added in int16, which saturates.

For weights whose sums of two products fit (``DotLayout.takes``); a multiplication by ones adds two
of these in int32.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from schedules.intrinsics.description import llvm, register, repeated
from schedules.intrinsics.x86_madd import MADD

_MADDUBS = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}


def maddubs(lanes: int) -> str:
    """The intrinsic for 8 or 16 sums of four products; returns its name."""
    words, dtype = f"int16x{lanes * 2}", f"int32x{lanes}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        inputs = repeated(x, f"uint8x{lanes * 4}", lanes)
        pairs = llvm(_MADDUBS[lanes], words, inputs, w.vload([0, 0], f"int8x{lanes * 4}"))
        ones = tirx.Broadcast(tirx.const(1, "int16"), lanes * 2)
        return sums.vload([0], dtype) + llvm(MADD[lanes], dtype, pairs, ones)

    return register(f"x86_maddubs_{lanes}", lanes, 4, "uint8", product)
