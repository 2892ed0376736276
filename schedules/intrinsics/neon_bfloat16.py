"""bfdot and bfmmla: products of bfloat16 added to float32, of Armv8.6's bf16 extension.

How they round is not IEEE 754's way. Products of two bfloat16 are exact in float32. Unless the
processor has FEAT_EBF16 and asks for it, each instruction adds neighbouring products and then the
sum, every addition rounded to odd (towards zero, with the lowest bit set where anything is lost),
and takes subnormal numbers for zero. An addition is off by less than 2^-23 of its result, so a sum
of K products by less than K * 2^-23 of the sum of their magnitudes. Operands that were rounded to
bfloat16 put it off by up to 2^-7 of that.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from compiler.codegen import llvm_functions
from schedules.intrinsics.description import register, repeated

LANES = 4
GROUP = 2
_WORDS = 8
_BFDOT = "@llvm.aarch64.neon.bfdot.v4f32.v8bf16"
_BFMMLA = "@llvm.aarch64.neon.bfmmla"
_CALL = """
define VECTOR @NAME(VECTOR %s, <8 x i16> %a, <8 x i16> %b) alwaysinline nounwind {
  %x = bitcast <8 x i16> %a to <8 x bfloat>
  %y = bitcast <8 x i16> %b to <8 x bfloat>
  %r = call VECTOR asm "INTRINSIC", "=w,w,w,w"(VECTOR %s, <8 x bfloat> %x, <8 x bfloat> %y)
  ret VECTOR %r
}
"""


def bfdot() -> str:
    """The intrinsic for 4 sums of two products; returns its name."""
    dtype = f"float32x{LANES}"

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        inputs = repeated(x, f"uint16x{_WORDS}", LANES)
        weights = w.vload([0, 0], f"bfloat16x{_WORDS}")
        return _call("bfdot", _BFDOT, sums.vload([0], dtype), bits(weights, _WORDS), inputs)

    return register("neon_bfdot", LANES, GROUP, "bfloat16", product, "bfloat16", "float32")


def bfmmla(inputs: tirx.PrimExpr, weights: tirx.PrimExpr, sums: tirx.PrimExpr) -> tirx.PrimExpr:
    """The sums of two pixels and two channels after four more products of each."""
    return _call("bfmmla", _BFMMLA, sums, bits(inputs, _WORDS), bits(weights, _WORDS))


def bits(vector: tirx.PrimExpr, lanes: int) -> tirx.PrimExpr:
    """A vector of bfloat16 as integers."""
    return tirx.reinterpret(f"uint16x{lanes}", vector)


def _call(name: str, intrinsic: str, *args: tirx.PrimExpr) -> tirx.PrimExpr:
    text = _CALL.replace("INTRINSIC", intrinsic).replace("VECTOR", f"<{LANES} x float>")
    return llvm_functions.call(f"float32x{LANES}", name, text, *args)
