"""Store bytes with the sign that the target's products of bytes take.

Before:  q: int8 = quantize(x, s, z)         conv2d(dequantize(max_pool2d(q), s, z), w)
After:   q: uint8 = quantize(x, s, z + 128)  conv2d(dequantize(max_pool2d(q), s, z + 128), w)

The real numbers are the same. What reads the integers themselves gets them as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from compiler.passes.dot_layout import activation_dtype
from compiler.passes.rewriter import Rewriter
from compiler.quantize.qdq import (
    DEQUANTIZE,
    QUANTIZE,
    Quantum,
    emit_dequantize,
    emit_quantize,
    quantum_of,
)
from compiler.target import Target

# What moves elements or compares them, and so does not mind 128 more.
_MOVES = (
    "concat",
    "expand_dims",
    "flatten",
    "nn.max_pool1d",
    "nn.max_pool2d",
    "permute_dims",
    "reshape",
    "squeeze",
    "strided_slice",
)
_HALF = 128


@dataclass(frozen=True, eq=False)
class _Recoded:
    """Integers stored as ``expr``, once of another sign."""

    expr: relax.Expr
    dtype: str


def store_as_operands(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Rewrite what quantize operators of ``main`` store."""
    bindings = [b.value for block in module["main"].body.blocks for b in block.bindings]
    wanted = activation_dtype(target)
    if not any(_mismatch(value, wanted) for value in bindings):
        return module
    return _Recoder(wanted).rewrite(module)


def _mismatch(value: relax.Expr, wanted: str) -> Quantum | None:
    """The quantum of a quantize operator to bytes of the other sign."""
    quantum = quantum_of(value, QUANTIZE)
    if quantum is None or not quantum.per_tensor or quantum.dtype == wanted:
        return None
    return quantum if quantum.dtype in ("int8", "uint8") else None


def _recoded(quantum: Quantum, wanted: str) -> Quantum:
    shift = _HALF if wanted == "uint8" else -_HALF
    return Quantum.of(quantum.scale, int(quantum.zero_point) + shift, wanted)


class _Recoder(Rewriter):
    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted = wanted
        self.handlers |= {QUANTIZE: self._quantize, DEQUANTIZE: self._dequantize}
        self.handlers |= {f"relax.{name}": self._move for name in _MOVES}

    def to_plain(self, value: _Recoded) -> relax.Expr:
        wide = relax.op.astype(value.expr, "int32")
        shift = -_HALF if self.wanted == "uint8" else _HALF
        shifted = relax.op.add(self.builder.emit(wide), relax.const(shift, "int32"))
        return self.builder.emit(relax.op.astype(self.builder.emit(shifted), value.dtype))

    def _quantize(self, call: relax.Call) -> _Recoded | None:
        quantum = _mismatch(call, self.wanted)
        if quantum is None:
            return None
        real = self.plain(call.args[0])
        stored = emit_quantize(self.builder, real, _recoded(quantum, self.wanted))
        return _Recoded(stored, quantum.dtype)

    def _dequantize(self, call: relax.Call) -> relax.Expr | None:
        value, quantum = self.value(call.args[0]), quantum_of(call, DEQUANTIZE)
        if not isinstance(value, _Recoded) or quantum is None or not quantum.per_tensor:
            return None
        return emit_dequantize(self.builder, value.expr, _recoded(quantum, self.wanted))

    def _move(self, call: relax.Call) -> _Recoded | None:
        first, *rest = call.args
        if isinstance(first, relax.Tuple):
            values = [self.value(field) for field in first.fields]
        else:
            values = [self.value(first)]
        if not all(isinstance(value, _Recoded) for value in values):
            return None
        exprs = [value.expr for value in values]
        argument = relax.Tuple(exprs) if isinstance(first, relax.Tuple) else exprs[0]
        moved = self.builder.emit(relax.Call(call.op, [argument, *rest], call.attrs))
        return _Recoded(moved, values[0].dtype)
