"""Evaluate dequantize of constants that nobody multiplies by as integers.

Before:  conv2d(x, dequantize(const, s, z))
After:   conv2d(x, const')

What integer arithmetic takes has been taken when this runs.
"""

from __future__ import annotations

import tvm
from tvm import relax

from compiler.passes.packed_values import constant_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.qdq import DEQUANTIZE, quantum_of


def fold_dequantize(module: tvm.IRModule) -> tvm.IRModule:
    """Replace every dequantize of a constant by its float32 value."""
    return _Folder().rewrite(module)


class _Folder(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.handlers[DEQUANTIZE] = self._fold

    def _fold(self, call: relax.Call) -> relax.Expr | None:
        stored, quantum = constant_of(self.plain(call.args[0])), quantum_of(call, DEQUANTIZE)
        if stored is None or quantum is None or str(call.ty.dtype) != "float32":
            return None
        return relax.const(quantum.dequantize(stored))
