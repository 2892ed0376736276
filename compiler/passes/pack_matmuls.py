"""Pack the right operand of matrix products into panels of one vector's columns.

Before:  matmul(x[..., M, K], w[..., K, N])
After:   matmul_packed(x, w'[..., N/c, K, c]); a constant w is packed at compile time
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from compiler.passes import packed_ops
from compiler.passes.pack_convolutions import preferred_block
from compiler.passes.packed_ops import FUSABLE
from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter
from compiler.target import Target


def pack_matmuls(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Rewrite all float matrix products of rank 2 and more."""
    return _Packer(target).rewrite(module)


class _Packer(Rewriter):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.block = preferred_block(target)
        self.handlers["relax.matmul"] = self._matmul

    def _matmul(self, call: relax.Call) -> relax.Expr | None:
        left, right = (self.plain(a) for a in call.args)
        shapes = shape_of(left), shape_of(right)
        dtypes = {str(e.ty.dtype) for e in (left, right, call)}
        if min(map(len, shapes)) < 2 or len(dtypes) > 1 or not dtypes.pop().startswith("float"):
            return None
        columns = shapes[1][-1]
        value = constant_of(right)
        if value is not None:
            packed = relax.const(pack_columns(value, self.block))
            return self._emit(packed_ops.matmul, left, packed, columns)

        def compute(a, b):
            return packed_ops.matmul(a, packed_ops.pack_columns(b, self.block), columns)

        return self._emit(compute, left, right)

    def _emit(self, compute, *args) -> relax.Expr:
        return self.builder.emit_te(
            compute, *args, primfunc_name_hint="matmul", primfunc_attrs=FUSABLE
        )


def pack_columns(value: np.ndarray, c: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N/c), K, c], zeros beyond N."""
    *batch, depth, columns = value.shape
    value = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, -columns % c)])
    value = value.reshape(*batch, depth, -1, c)
    return np.ascontiguousarray(value.swapaxes(-3, -2))
