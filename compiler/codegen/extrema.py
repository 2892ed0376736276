"""Float maxima and minima as the one instruction that AArch64 has for them.

The code generator compares and selects, which stays two instructions wherever LLVM cannot prove
that neither operand is NaN. ``llvm.maximum`` is IEEE 754-2019's: NaN if either operand is.

    before:  max(a, b)
    after:   llvm.maximum(a, b)
"""

from __future__ import annotations

import tvm
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


def UseIeeeExtrema() -> tvm.ir.transform.Pass:  # noqa: N802 (TVM's pass naming)
    """``use_ieee_extrema`` as a TVM pass over all PrimFuncs of a module."""

    def transform(
        func: tirx.PrimFunc, module: tvm.IRModule, context: tvm.ir.transform.PassContext
    ) -> tirx.PrimFunc:
        return use_ieee_extrema(func)

    return tirx.transform.prim_func_pass(transform, opt_level=0, name="UseIeeeExtrema")
