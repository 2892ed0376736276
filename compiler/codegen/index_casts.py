"""Index arithmetic that passes through floats (resizing) in 32 bits.

Operator definitions cast positions to int64 and back. Few vector units convert between float32 and
int64, and 32-bit CPUs call a library function for it; positions in a tensor fit in int32.

    before:  A[cast(int64, floor(cast(float32, i64) * 0.5))]
    after:   A[cast(int64, cast(int32, floor(cast(float32, cast(int32, i64)) * 0.5)))]
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad


def narrow_index_casts(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite casts between float32 and int64 of positions; data are left alone."""

    def load(access: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        access = mutator.default_mutate(access)
        return tirx.BufferLoad(access.source, _positions(access.indices))

    def store(stmt: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        stmt = mutator.default_mutate(stmt)
        return tirx.BufferStore(stmt.buffer, stmt.value, _positions(stmt.indices))

    def cast(expr: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        expr = mutator.default_mutate(expr)
        if _is(expr, "float32") and _is(expr.value, "int64") and not _reads_data(expr.value):
            return tirx.Cast(expr.ty, _as_int32(expr.value))
        return expr

    callbacks = [(TensorLoad, load), (tirx.BufferStore, store), (tirx.Cast, cast)]
    return func.with_body(tvm_ffi.structural_mutate(func.body, callbacks))


def _positions(indices: Sequence[tirx.PrimExpr]) -> list[tirx.PrimExpr]:
    def cast(expr: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        expr = mutator.default_mutate(expr)
        if _is(expr, "int64") and _is(expr.value, "float32"):
            return tirx.Cast(expr.ty, _as_int32(expr.value))
        return expr

    return [tvm_ffi.structural_mutate(index, [(tirx.Cast, cast)]) for index in indices]


def _is(expr: tirx.PrimExpr, element: str) -> bool:
    return str(expr.ty.dtype).split("x")[0] == element


def _as_int32(value: tirx.PrimExpr) -> tirx.PrimExpr:
    lanes = tvm.DataType(str(value.ty.dtype)).lanes
    return tirx.Cast(tvm.ir.PrimType("int32" if lanes == 1 else f"int32x{lanes}"), value)


def _reads_data(expr: tirx.PrimExpr) -> bool:
    loads: list[TensorLoad] = []
    tvm_ffi.structural_walk(expr, [(TensorLoad, loads.append)])
    return bool(loads)
