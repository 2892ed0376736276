"""Nearest integers as the one instruction that processors have for them.

LLVM rounds to an integral float and converts that, unless it is asked for both at once.

    before:  int32(round(x))
    after:   llvm.lrint(x)              AVX, RISC-V: by the rounding mode, which is to even
             fcvtns(x), cvtps2dq(x)     AArch64, SSE: four values at a time
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx

from compiler.target import Target

# Of four values. LLVM's lrint would have SSE read unaligned memory as if it were aligned.
_OF_FOUR = {"aarch64": "llvm.aarch64.neon.fcvtns", "x86_64": "llvm.x86.sse2.cvtps2dq"}
_ROUNDINGS = ("tirx.round", "tirx.nearbyint")


def use_nearest(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Rewrite conversions of rounded float32; run after loops are vectorised."""

    def visit(cast: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        cast = mutator.default_mutate(cast)
        value = cast.value
        if not isinstance(value, tvm.ir.Call) or getattr(value.op, "name", "") not in _ROUNDINGS:
            return cast
        source, wanted = tvm.DataType(str(value.ty.dtype)), tvm.DataType(str(cast.ty.dtype))
        if (source.bits, wanted.bits) != (32, 32) or not str(wanted).startswith("int"):
            return cast
        if target.arch == "riscv64" or (target.arch == "x86_64" and target.vector.bits > 128):
            return tirx.call_llvm_pure_intrin(str(wanted), "llvm.lrint", value.args[0])
        halves_to_four = wanted.lanes >= 4 and wanted.lanes & (wanted.lanes - 1) == 0
        if target.arch in _OF_FOUR and halves_to_four:
            return _in_fours(value.args[0], wanted.lanes, _OF_FOUR[target.arch])
        return cast

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.Cast, visit)]))


def _in_fours(x: tirx.PrimExpr, lanes: int, name: str) -> tirx.PrimExpr:
    if lanes == 4:
        return tirx.call_llvm_pure_intrin("int32x4", name, x)
    halves = [
        tirx.call_intrin(f"float32x{lanes // 2}", f"tirx.vector{half}", x)
        for half in ("low", "high")
    ]
    parts = [_in_fours(half, lanes // 2, name) for half in halves]
    return tirx.call_intrin(f"int32x{lanes}", "tirx.vectorcombine", *parts)
