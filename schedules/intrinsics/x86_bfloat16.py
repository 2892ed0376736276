"""vdpbf16ps: two products of bfloat16 added to float32, of AVX-512 BF16.

It multiplies and adds with one rounding, to nearest even, first the one product of a pair and then
the other, and takes subnormal numbers, those below 1.2e-38, for zero, as operands and as results.
A sum of K products is off by K * 2^-24 of the sum of their magnitudes at most; operands that were
rounded to bfloat16 put it off by up to 2^-7 of that.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from compiler.codegen import llvm_functions
from schedules.intrinsics.description import register, repeated

GROUP = 2
_CALL = """
define <LANES x float> @NAME(<LANES x float> %s, <WORDS x i16> %a, <WORDS x i16> %b) alwaysinline {
  %x = bitcast <WORDS x i16> %a to <WORDS x bfloat>
  %y = bitcast <WORDS x i16> %b to <WORDS x bfloat>
  %r = call <LANES x float> asm "@llvm.x86.avx512bf16.dpbf16ps.BITS", "=v,v,v,v"(
    <LANES x float> %s, <WORDS x bfloat> %x, <WORDS x bfloat> %y)
  ret <LANES x float> %r
}
"""


def dpbf16(lanes: int) -> str:
    """The intrinsic for 4, 8 or 16 sums of two products; returns its name."""
    dtype, words = f"float32x{lanes}", GROUP * lanes
    text = _CALL.replace("LANES", str(lanes)).replace("WORDS", str(words))
    text = text.replace("BITS", str(32 * lanes))

    def product(x: Any, w: Any, sums: Any) -> tirx.PrimExpr:
        inputs = repeated(x, f"uint16x{words}", lanes)
        weights = tirx.reinterpret(f"uint16x{words}", w.vload([0, 0], f"bfloat16x{words}"))
        name = f"dpbf16ps_{lanes}"
        return llvm_functions.call(dtype, name, text, sums.vload([0], dtype), inputs, weights)

    return register(f"x86_dpbf16_{lanes}", lanes, GROUP, "bfloat16", product, "bfloat16", "float32")
