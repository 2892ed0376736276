"""Products of two vectors of int8 in int16, as 32-bit ARM multiplies them.

Loops over pixels share weights: LLVM widens these before such a loop, does not find ``vmull``
inside of it, and keeps twice the registers.

    before:  int16(x) * int16(w)
    after:   vmull.s8(x, w)       eight values at a time
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx

LANES = 8
_VMULL = "llvm.arm.neon.vmulls.v8i16"


def long_products(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite products of widened vectors; run after loops are vectorised."""

    def visit(product: tirx.Mul, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        lanes = tvm.DataType(str(product.ty.dtype)).lanes
        if lanes % LANES == 0 and lanes & (lanes - 1) == 0:
            x, w = _narrow(product.a, lanes), _narrow(product.b, lanes)
            if x is not None and w is not None:
                return _in_eights(mutator.mutate(x), mutator.mutate(w), lanes)
        return mutator.default_mutate(product)

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.Mul, visit)]))


def _narrow(side: tirx.PrimExpr, lanes: int) -> tirx.PrimExpr | None:
    """x of int16(x), int8."""
    if not isinstance(side, tirx.Cast) or str(side.ty.dtype) != f"int16x{lanes}":
        return None
    return side.value if str(side.value.ty.dtype) == f"int8x{lanes}" else None


def _in_eights(x: tirx.PrimExpr, w: tirx.PrimExpr, lanes: int) -> tirx.PrimExpr:
    if lanes == LANES:
        return tirx.call_llvm_pure_intrin(f"int16x{LANES}", _VMULL, x, w)
    half = f"int8x{lanes // 2}"
    low, high = (
        _in_eights(tirx.call_intrin(half, name, x), tirx.call_intrin(half, name, w), lanes // 2)
        for name in ("tirx.vectorlow", "tirx.vectorhigh")
    )
    return tirx.call_intrin(f"int16x{lanes}", "tirx.vectorcombine", low, high)
