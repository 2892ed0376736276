"""vpdpbusd: four products of uint8 and int8 added to int32; vpdpwssd: two of int16.

Of AVX-512 VNNI and AVX-VNNI.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from schedules.intrinsics.description import llvm, register, repeated


def vnni(lanes: int) -> str:
    """The intrinsic for 4, 8 or 16 sums of four products; returns its name."""
    dtype = f"int32x{lanes}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        inputs = repeated(x, f"uint8x{lanes * 4}", lanes)
        weights = w.vload([0, 0], f"int8x{lanes * 4}")
        name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
        return llvm(name, dtype, sums.vload([0], dtype), inputs, weights)

    return register(f"x86_vnni_{lanes}", lanes, 4, "uint8", product)


def vnni_words(lanes: int) -> str:
    """The intrinsic for 4, 8 or 16 sums of two products of int16; returns its name."""
    dtype, words = f"int32x{lanes}", f"int16x{lanes * 2}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        weights = w.vload([0, 0], f"int8x{lanes * 2}").astype(words)
        name = f"llvm.x86.avx512.vpdpwssd.{lanes * 32}"
        return llvm(name, dtype, sums.vload([0], dtype), repeated(x, words, lanes), weights)

    return register(f"x86_vnni_words_{lanes}", lanes, 2, "int16", product)
