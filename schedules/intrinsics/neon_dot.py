"""sdot: four products of int8 added to each of four int32, of Armv8.2's dot product extension."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from schedules.intrinsics.description import llvm, register, repeated

LANES = 4


def sdot() -> str:
    """The intrinsic for 4 sums of four products; returns its name.

    The four inputs are one lane of a vector where a vector was loaded.
    """
    dtype = f"int32x{LANES}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        inputs = repeated(x, "int8x16", LANES)
        weights = w.vload([0, 0], "int8x16")
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return llvm(name, dtype, sums.vload([0], dtype), weights, inputs)

    return register("neon_sdot", LANES, 4, "int8", product)
