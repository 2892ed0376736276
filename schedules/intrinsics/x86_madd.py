"""vpmaddwd: products of int16, neighbours added in int32. Exact for all bytes."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from schedules.intrinsics.description import llvm, register, repeated

MADD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


def madd(lanes: int) -> str:
    """The intrinsic for 4, 8 or 16 sums of two products; returns its name."""
    words, dtype = f"int16x{lanes * 2}", f"int32x{lanes}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        weights = w.vload([0, 0], f"int8x{lanes * 2}").astype(words)
        products = llvm(MADD[lanes], dtype, repeated(x, words, lanes), weights)
        return sums.vload([0], dtype) + products

    return register(f"x86_madd_{lanes}", lanes, 2, "int16", product)
