"""Float maxima and minima as the one instruction that AArch64 has for them.

The code generator compares and selects, which stays two instructions wherever LLVM cannot prove
that neither operand is NaN. ``llvm.maximum`` is IEEE 754-2019's: NaN if either operand is.

    before:  max(a, b)
    after:   llvm.maximum(a, b)
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx


def use_ieee_extrema(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite maxima and minima of floats; run after loops are vectorised."""

    def rewrite(name: str):
        def visit(expr: tirx.PrimExpr, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
            expr = mutator.default_mutate(expr)
            dtype = str(expr.ty.dtype)
            if not dtype.startswith("float"):
                return expr
            return tirx.call_llvm_pure_intrin(dtype, name, expr.a, expr.b)

        return visit

    rules = [(tirx.Max, rewrite("llvm.maximum")), (tirx.Min, rewrite("llvm.minimum"))]
    return func.with_body(tvm_ffi.structural_mutate(func.body, rules))
