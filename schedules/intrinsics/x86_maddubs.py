"""vpmaddubsw: products of uint8 and int8, neighbours added in int16, which saturates.

For weights whose sums fit (``DotLayout.takes``): sums of two products, or of two such sums, which
saves one multiplication in four. A multiplication by ones adds neighbours in int32.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from schedules.intrinsics.description import llvm, register, register_parts, repeated
from schedules.intrinsics.x86_madd import MADD

_MADDUBS = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}


def maddubs(lanes: int) -> str:
    """The intrinsic for 8 or 16 sums of four products; returns its name."""

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        return _added(lanes, sums, _pairs(lanes, x, 0, w.vload([0, 0], f"int8x{lanes * 4}")))

    return register(f"x86_maddubs_{lanes}", lanes, 4, "uint8", product)


def maddubs_twice(lanes: int) -> str:
    """The intrinsic for 8 or 16 sums of eight products; returns its name."""

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        first, second = (
            _pairs(lanes, x, 4 * i, w.vload([i, 0, 0], f"int8x{lanes * 4}")) for i in range(2)
        )
        return _added(lanes, sums, first + second)

    return register_parts(f"x86_maddubs_twice_{lanes}", lanes, 2, 4, "uint8", product)


def _pairs(lanes: int, x: Any, position: int, weights: tirx.PrimExpr) -> tirx.PrimExpr:
    """Sums of two products in int16, from four bytes of a buffer for all lanes."""
    inputs = repeated(x, f"uint8x{lanes * 4}", lanes, position)
    return llvm(_MADDUBS[lanes], f"int16x{lanes * 2}", inputs, weights)


def _added(lanes: int, sums: Any, pairs: tirx.PrimExpr) -> tirx.PrimExpr:
    dtype = f"int32x{lanes}"
    ones = tirx.Broadcast(tirx.const(1, "int16"), lanes * 2)
    return sums.vload([0], dtype) + llvm(MADD[lanes], dtype, pairs, ones)
