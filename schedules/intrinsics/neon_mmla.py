"""smmla and bfmmla: sums of products of two pixels by two channels, 2 x 2 in a register.

smmla, of Armv8.6's i8mm extension, adds eight products of int8 to each of four int32; bfmmla, of
its bf16 extension, four products of bfloat16 to each of four float32. How that rounds is said in
``neon_bfloat16``.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx
from tvm.script import tirx as script

from schedules.intrinsics.description import Functions, Product, llvm, register_functions
from schedules.intrinsics.neon_bfloat16 import bfmmla

PAIR = 2
LANES = PAIR * PAIR
# What ends the names of intrinsics whose inputs of both pixels are one vector in memory.
VECTORS = "_vectors"
_SMMLA = "llvm.aarch64.neon.smmla.v4i32.v16i8"


def mmla(dtype: str = "int8", together: bool = False) -> str:
    """The intrinsic for the sums of two pixels and two channels; returns its name.

    Args:
        dtype: of the operands, "int8" or "bfloat16".
        together: the inputs of both pixels are one vector in memory; else those of a pixel lie
            together, and those of its neighbour anywhere behind.
    """
    make = _functions_of_vectors if together else _functions
    suffix = VECTORS if together else ""
    if dtype == "int8":
        return register_functions(f"neon_mmla{suffix}", partial(make, dtype, "int32", _smmla))
    return register_functions(f"neon_bfmmla{suffix}", partial(make, dtype, "float32", bfmmla))


def group_of(dtype: str) -> int:
    """Products of one sum: half a register of operands."""
    return {"int8": 8, "bfloat16": 4}[dtype]


def _smmla(inputs: Any, weights: Any, sums: Any) -> tirx.PrimExpr:
    return llvm(_SMMLA, f"int32x{LANES}", sums, inputs, weights)


def _functions(dtype: str, total: str, product: Product) -> Functions:
    """Args:
    product: (inputs, weights, sums as vectors) -> the new sums.
    """
    group = group_of(dtype)
    pair = (PAIR, group)

    @script.prim_func(s_tir=True)
    def description(inputs: script.handle, weights: script.handle, result: script.handle) -> None:
        distance = script.int32()
        x = script.match_buffer(
            inputs, (PAIR, group), dtype, offset_factor=1, strides=[distance, 1]
        )
        w = script.match_buffer(weights, pair, dtype, offset_factor=1)
        sums = script.match_buffer(result, (PAIR, PAIR), total, offset_factor=1)
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:group], w[0:PAIR, 0:group])
            script.writes(sums[0:PAIR, 0:PAIR])
            for i, j, k in script.grid(PAIR, PAIR, group):
                with script.sblock("update"):
                    p, c, g = script.axis.remap("SSR", [i, j, k])
                    sums[p, c] = sums[p, c] + script.cast(x[p, g], total) * script.cast(
                        w[c, g], total
                    )

    @script.prim_func(s_tir=True)
    def implementation(
        inputs: script.handle, weights: script.handle, result: script.handle
    ) -> None:
        distance = script.int32()
        x = script.match_buffer(
            inputs, (PAIR, group), dtype, offset_factor=1, strides=[distance, 1]
        )
        w = script.match_buffer(weights, pair, dtype, offset_factor=1)
        sums = script.match_buffer(result, (PAIR, PAIR), total, offset_factor=1)
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:group], w[0:PAIR, 0:group])
            script.writes(sums[0:PAIR, 0:PAIR])
            sums[0, script.ramp(0, 1, LANES)] = product(
                tirx.vectorcombine(
                    f"{dtype}x{PAIR * group}",
                    x.vload([0, 0], f"{dtype}x{group}"),
                    x.vload([1, 0], f"{dtype}x{group}"),
                ),
                w.vload([0, 0], f"{dtype}x{PAIR * group}"),
                sums.vload([0, 0], f"{total}x{LANES}"),
            )

    return description, implementation


def _functions_of_vectors(dtype: str, total: str, product: Product) -> Functions:
    """``_functions`` of inputs that lie together."""
    group = group_of(dtype)
    pair = (PAIR, group)

    @script.prim_func(s_tir=True)
    def description(
        x: script.Buffer(pair, dtype, offset_factor=1),
        w: script.Buffer(pair, dtype, offset_factor=1),
        sums: script.Buffer((PAIR, PAIR), total, offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:group], w[0:PAIR, 0:group])
            script.writes(sums[0:PAIR, 0:PAIR])
            for i, j, k in script.grid(PAIR, PAIR, group):
                with script.sblock("update"):
                    p, c, g = script.axis.remap("SSR", [i, j, k])
                    sums[p, c] = sums[p, c] + script.cast(x[p, g], total) * script.cast(
                        w[c, g], total
                    )

    @script.prim_func(s_tir=True)
    def implementation(
        x: script.Buffer(pair, dtype, offset_factor=1),
        w: script.Buffer(pair, dtype, offset_factor=1),
        sums: script.Buffer((PAIR, PAIR), total, offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:group], w[0:PAIR, 0:group])
            script.writes(sums[0:PAIR, 0:PAIR])
            sums[0, script.ramp(0, 1, LANES)] = product(
                x.vload([0, 0], f"{dtype}x{PAIR * group}"),
                w.vload([0, 0], f"{dtype}x{PAIR * group}"),
                sums.vload([0, 0], f"{total}x{LANES}"),
            )

    return description, implementation
