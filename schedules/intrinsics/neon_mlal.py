"""smull, smlal, sadalp: products of int8 whose sums of two fit in int16. For all cores with NEON.

Inputs and weights are 16 neighbours each. Products 8 apart are added in int16, which holds two of
them where weights are above -128 (2 * 128 * 127 < 2^15); neighbours among these sums in int32:

    sums[p] += x[2p] w[2p] + x[2p + 1] w[2p + 1] + x[2p + 8] w[2p + 8] + x[2p + 9] w[2p + 9]

The four sums are added to one by ``collect`` when the reduction is done.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.script import tirx as script

from schedules.intrinsics.description import Functions, llvm, register_functions

GROUP = 16
LANES = 4
HALF = GROUP // 2
PREFIX = {"aarch64": "neon", "arm": "neon32"}


def mlal(arch: str) -> str:
    """The intrinsic for the products of 16 neighbours in four sums; returns its name."""
    return register_functions(f"{PREFIX[arch]}_mlal", partial(_mlal, arch))


def _mlal(arch: str) -> Functions:
    accumulated = _accumulated_32 if arch == "arm" else _accumulated

    @script.prim_func(s_tir=True)
    def description(
        x: script.Buffer((GROUP,), "int8", offset_factor=1),
        w: script.Buffer((GROUP,), "int8", offset_factor=1),
        sums: script.Buffer((LANES,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:LANES], x[0:GROUP], w[0:GROUP])
            script.writes(sums[0:LANES])
            for i, j, k in script.grid(LANES, 2, 2):
                with script.sblock("update"):
                    p, h, o = script.axis.remap("SRR", [i, j, k])
                    sums[p] = sums[p] + script.cast(x[h * HALF + p * 2 + o], "int32") * script.cast(
                        w[h * HALF + p * 2 + o], "int32"
                    )

    @script.prim_func(s_tir=True)
    def implementation(
        x: script.Buffer((GROUP,), "int8", offset_factor=1),
        w: script.Buffer((GROUP,), "int8", offset_factor=1),
        sums: script.Buffer((LANES,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:LANES], x[0:GROUP], w[0:GROUP])
            script.writes(sums[0:LANES])
            sums[script.ramp(0, 1, LANES)] = accumulated(
                sums.vload([0], f"int32x{LANES}"),
                x.vload([0], f"int8x{GROUP}"),
                w.vload([0], f"int8x{GROUP}"),
            )

    return description, implementation


def _accumulated(sums: tirx.PrimExpr, x: tirx.PrimExpr, w: tirx.PrimExpr) -> tirx.PrimExpr:
    low, high = (
        llvm("llvm.aarch64.neon.smull.v8i16", f"int16x{HALF}", part(x), part(w))
        for part in (_low, _high)
    )
    return sums + llvm("llvm.aarch64.neon.saddlp.v4i32.v8i16", f"int32x{LANES}", low + high)


def _accumulated_32(sums: tirx.PrimExpr, x: tirx.PrimExpr, w: tirx.PrimExpr) -> tirx.PrimExpr:
    """vmull, vmlal, vpadal of 32-bit ARM."""
    low, high = (
        llvm("llvm.arm.neon.vmulls.v8i16", f"int16x{HALF}", part(x), part(w))
        for part in (_low, _high)
    )
    return llvm("llvm.arm.neon.vpadals.v4i32.v8i16", f"int32x{LANES}", sums, low + high)


def _low(vector: tirx.PrimExpr) -> tirx.PrimExpr:
    return tirx.vectorlow(f"int8x{HALF}", vector)


def _high(vector: tirx.PrimExpr) -> tirx.PrimExpr:
    return tirx.vectorhigh(f"int8x{HALF}", vector)


def collect(arch: str) -> str:
    """The intrinsic that adds four vectors of four sums, each to one sum; returns its name."""
    return register_functions(f"{PREFIX[arch]}_collect", partial(_collect, arch))


def _collect(arch: str) -> Functions:
    pairs = _pairs_32 if arch == "arm" else _pairs

    @script.prim_func(s_tir=True)
    def description(
        parts: script.Buffer((LANES, LANES), "int32", offset_factor=1),
        sums: script.Buffer((LANES,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:LANES], parts[0:LANES, 0:LANES])
            script.writes(sums[0:LANES])
            for i, j in script.grid(LANES, LANES):
                with script.sblock("update"):
                    p, s = script.axis.remap("RS", [j, i])
                    sums[s] = sums[s] + parts[s, p]

    @script.prim_func(s_tir=True)
    def implementation(
        parts: script.Buffer((LANES, LANES), "int32", offset_factor=1),
        sums: script.Buffer((LANES,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:LANES], parts[0:LANES, 0:LANES])
            script.writes(sums[0:LANES])
            sums[script.ramp(0, 1, LANES)] = sums.vload([0], f"int32x{LANES}") + pairs(
                pairs(parts.vload([0, 0], f"int32x{LANES}"), parts.vload([1, 0], f"int32x{LANES}")),
                pairs(parts.vload([2, 0], f"int32x{LANES}"), parts.vload([3, 0], f"int32x{LANES}")),
            )

    return description, implementation


def _pairs(left: tirx.PrimExpr, right: tirx.PrimExpr) -> tirx.PrimExpr:
    """Sums of neighbours of two vectors."""
    return llvm("llvm.aarch64.neon.addp.v4i32", f"int32x{LANES}", left, right)


def _pairs_32(left: tirx.PrimExpr, right: tirx.PrimExpr) -> tirx.PrimExpr:
    """The same by vpadd of 32-bit ARM, which takes half vectors."""
    half = f"int32x{LANES // 2}"
    parts = [
        llvm(
            "llvm.arm.neon.vpadd.v2i32",
            half,
            tirx.vectorlow(half, vector),
            tirx.vectorhigh(half, vector),
        )
        for vector in (left, right)
    ]
    return tirx.vectorcombine(f"int32x{LANES}", *parts)
