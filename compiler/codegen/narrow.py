"""NEON's saturating instructions for vectors of reals that become int8.

LLVM merges the bounds of both steps from 32 to 8 bits and then narrows without saturation.

    before:  int8(clamp(int16(clamp(int32(round(x + zero))))))
             int8(int32(round(clamp(x))) + zero)
    after:   sqxtn(sqadd(sqxtn(int32(round(x))), zero))

Adding the zero point to int16, eight at a time, saves a copy of it for each multiplication.

32-bit ARM converts by rounding towards zero only, but its sums are rounded to nearest even: that of
x and 1.5 * 2^23 has the integer in its low bits,

    int32(round(x))  =  bits(x + 1.5 * 2^23) - bits(1.5 * 2^23)     where |x| <= 2^22

and beyond that a saturating subtraction leaves what int16 saturates, too.
"""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

# Largest zero point: sums in int16 saturate beyond all of int8.
_MAX_ZERO = 512
_ROUNDINGS = ("tirx.round", "tirx.nearbyint")
_SATURATE = {"aarch64": "llvm.aarch64.neon.sqxtn", "arm": "llvm.arm.neon.vqmovns"}
_HALFWAY = np.float32(1.5 * 2**23)


def narrow(func: tirx.PrimFunc, arch: str) -> tirx.PrimFunc:
    """Rewrite conversions to int8; run after loops are vectorised."""

    def visit(cast: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        dtype = tvm.DataType(str(cast.ty.dtype))
        lanes = dtype.lanes
        if str(dtype) == f"int8x{lanes}" and lanes >= 4 and lanes & (lanes - 1) == 0:
            found = _saturated(cast) or _bounded(cast)
            if found is not None:
                return _narrowed(mutator.mutate(found[0]), found[1], lanes, arch)
        return mutator.default_mutate(cast)

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.Cast, visit)]))


def _saturated(cast: tirx.Cast) -> tuple[tirx.PrimExpr, int] | None:
    """The real numbers and the zero point of the first form."""
    wide = _clamped(cast.value, -128, 127)
    half = wide.value if isinstance(wide, tirx.Cast) else None
    if not isinstance(half, tirx.Cast) or not str(half.ty.dtype).startswith("int16"):
        return None
    x = _rounded(_clamped(half.value, -(1 << 15), (1 << 15) - 1))
    return None if x is None else _split_zero(x)


def _bounded(cast: tirx.Cast) -> tuple[tirx.PrimExpr, int] | None:
    """The real numbers and the zero point of the second form."""
    value, zero = _split_zero(cast.value)
    x = _rounded(value)
    x = None if x is None else _clamped(x, -128 - zero, 127 - zero)
    return None if x is None else (x, zero)


def _split_zero(value: tirx.PrimExpr) -> tuple[tirx.PrimExpr, int]:
    """A sum with a constant integer as its parts."""
    if isinstance(value, (tirx.Add, tirx.Sub)):
        zero = _constant(value.b)
        if zero is not None and zero == int(zero) and abs(zero) <= _MAX_ZERO:
            return value.a, int(zero) if isinstance(value, tirx.Add) else -int(zero)
    return value, 0


def _clamped(value: tirx.PrimExpr, low: int, high: int) -> tirx.PrimExpr | None:
    """v of max(min(v, high), low)."""
    if not isinstance(value, tirx.Max) or not isinstance(value.a, tirx.Min):
        return None
    bounds = (_constant(value.b), _constant(value.a.b))
    return value.a.a if bounds == (low, high) else None


def _rounded(value: tirx.PrimExpr | None) -> tirx.PrimExpr | None:
    """x of int32(round(x)), float32."""
    if not isinstance(value, tirx.Cast) or not str(value.ty.dtype).startswith("int32"):
        return None
    call = value.value
    if not isinstance(call, tvm.ir.Call) or getattr(call.op, "name", "") not in _ROUNDINGS:
        return None
    return call.args[0] if str(call.ty.dtype).startswith("float32") else None


def _constant(value: tirx.PrimExpr) -> float | None:
    if isinstance(value, tirx.Broadcast) and isinstance(value.value, (tirx.IntImm, tirx.FloatImm)):
        return float(value.value.value)
    return None


def _narrowed(x: tirx.PrimExpr, zero: int, lanes: int, arch: str) -> tirx.PrimExpr:
    half = _in_parts(_nearest(x, lanes, arch), 32, lanes, 4, _SATURATE[arch])
    if zero:
        addend = tirx.Broadcast(tirx.const(np.int16(zero), "int16"), lanes)
        half = tirx.call_llvm_pure_intrin(f"int16x{lanes}", "llvm.sadd.sat", half, addend)
    if lanes >= 8:
        return _in_parts(half, 16, lanes, 8, _SATURATE[arch])
    twice = tirx.call_intrin("int16x8", "tirx.vectorcombine", half, half)
    words = tirx.reinterpret("int32x2", _in_parts(twice, 16, 8, 8, _SATURATE[arch]))
    # One lane, because LLVM widens vectors of four bytes to work on them.
    return tirx.reinterpret("int8x4", tirx.Shuffle([words], [tirx.IntImm("int32", 0)]))


def _nearest(x: tirx.PrimExpr, lanes: int, arch: str) -> tirx.PrimExpr:
    """Integers that int16 saturates as it would those of x."""
    integers = f"int32x{lanes}"
    if arch != "arm":
        return tirx.call_intrin(f"float32x{lanes}", "tirx.round", x).astype(integers)
    shifted = x + tirx.Broadcast(tirx.const(_HALFWAY, "float32"), lanes)
    bits = tirx.Broadcast(tirx.const(int(_HALFWAY.view("int32")), "int32"), lanes)
    return tirx.call_llvm_pure_intrin(
        integers, "llvm.ssub.sat", tirx.reinterpret(integers, shifted), bits
    )


def _in_parts(x: tirx.PrimExpr, bits: int, lanes: int, part: int, saturate: str) -> tirx.PrimExpr:
    """``saturate`` of ``part`` lanes at a time."""
    dtype = f"int{bits // 2}x{lanes}"
    if lanes == part:
        return tirx.call_llvm_pure_intrin(dtype, f"{saturate}.v{part}i{bits // 2}", x)
    halves = [
        _in_parts(
            tirx.call_intrin(f"int{bits}x{lanes // 2}", f"tirx.vector{half}", x),
            bits,
            lanes // 2,
            part,
            saturate,
        )
        for half in ("low", "high")
    ]
    return tirx.call_intrin(dtype, "tirx.vectorcombine", *halves)
