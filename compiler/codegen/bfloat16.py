"""Conversions between float32 and bfloat16, on CPUs that have an instruction for them.

    before:  bfloat16(x)     float32(y)
    after:   bits of the nearest bfloat16, ties to even     float32 with y as its upper half

bfcvtn (AArch64) does it as IEEE 754 says; vcvtneps2bf16 (x86) takes subnormal numbers, those below
1.2e-38, for zero.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from compiler.codegen import llvm_functions

_ROUND = """
define {bits} @NAME({real} %x) alwaysinline nounwind memory(none) {{
  %narrow = fptrunc {real} %x to {half}
  %bits = bitcast {half} %narrow to {bits}
  ret {bits} %bits
}}
"""


def convert_bfloat16(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite conversions from and to bfloat16; run after loops are vectorised."""

    def visit(cast: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        cast = mutator.default_mutate(cast)
        wanted, given = (tvm.DataType(str(e.ty.dtype)) for e in (cast, cast.value))
        suffix = "" if wanted.lanes == 1 else f"x{wanted.lanes}"
        if str(wanted) == f"bfloat16{suffix}":
            value = cast.value if given.bits == 32 else cast.value.astype(f"float32{suffix}")
            return tirx.reinterpret(str(wanted), _rounded(value, wanted.lanes, suffix))
        if str(given) == f"bfloat16{suffix}":
            upper = tirx.reinterpret(f"uint16{suffix}", cast.value).astype(f"uint32{suffix}")
            sixteen = tirx.const(16, "uint32")
            shift = sixteen if wanted.lanes == 1 else tirx.Broadcast(sixteen, wanted.lanes)
            real = tirx.reinterpret(f"float32{suffix}", upper << shift)
            return real if wanted.bits == 32 else real.astype(str(wanted))
        return cast

    def visit_constant(value: tirx.FloatImm, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if str(value.ty.dtype) != "bfloat16":
            return value
        bits = int(np.array(value.value, ml_dtypes.bfloat16).view("uint16"))
        return tirx.reinterpret("bfloat16", tirx.const(bits, "uint16"))

    def visit_call(call: tvm.ir.Call, mutator: tvm_ffi.StructuralMutator) -> tvm.ir.Expr:
        """What moves values moves their bits: TVM only knows loads, stores and selections so."""
        call = mutator.default_mutate(call)
        dtype = str(getattr(call.ty, "dtype", ""))
        if not dtype.startswith("bfloat16") or call.op.name == "tirx.reinterpret":
            return call
        arguments = [_bits(a) for a in call.args]
        moved = tirx.call_intrin(dtype.replace("bfloat", "uint"), call.op, *arguments)
        return tirx.reinterpret(dtype, moved)

    def visit_broadcast(value: tirx.Broadcast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        value = mutator.default_mutate(value)
        dtype = str(value.ty.dtype)
        if not dtype.startswith("bfloat16"):
            return value
        return tirx.reinterpret(dtype, tirx.Broadcast(_bits(value.value), value.lanes))

    def visit_select(value: tirx.Select, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        value = mutator.default_mutate(value)
        dtype = str(value.ty.dtype)
        if not dtype.startswith("bfloat16"):
            return value
        sides = (_bits(value.true_value), _bits(value.false_value))
        return tirx.reinterpret(dtype, tirx.Select(value.condition, *sides))

    rules = [
        (tirx.Cast, visit),
        (tirx.FloatImm, visit_constant),
        (tirx.Broadcast, visit_broadcast),
        (tirx.Select, visit_select),
        (tvm.ir.Call, visit_call),
    ]
    return func.with_body(tvm_ffi.structural_mutate(func.body, rules))


def _bits(value: tirx.PrimExpr) -> tirx.PrimExpr:
    """bfloat16 as integers; anything else as it is."""
    dtype = str(getattr(value.ty, "dtype", ""))
    if not dtype.startswith("bfloat16"):
        return value
    return tirx.reinterpret(dtype.replace("bfloat", "uint"), value)


def _rounded(value: tirx.PrimExpr, lanes: int, suffix: str) -> tirx.PrimExpr:
    """The nearest bfloat16 as its bits."""
    real, half, bits = (
        kind if lanes == 1 else f"<{lanes} x {kind}>" for kind in ("float", "bfloat", "i16")
    )
    text = _ROUND.format(real=real, half=half, bits=bits)
    return llvm_functions.call(f"uint16{suffix}", f"to_bfloat16_{lanes}", text, value)
