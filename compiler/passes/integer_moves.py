"""Operators that only move or pick elements, applied to stored integers instead of real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from compiler.frontend.axis_ops import AxisOp
from compiler.passes.packed_values import shape_of
from compiler.quantize.movement import permuted, reshaped
from compiler.quantize.qdq import Quantum

_RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
# What picks elements along any axis; the quantum must be that of the whole tensor.
_PICKS = (
    "relax.strided_slice",
    "relax.broadcast_to",
    "relax.tile",
    "relax.repeat",
    "relax.flip",
    "relax.nn.max_pool1d",
    "relax.nn.max_pool2d",
    "relax.nn.max_pool3d",
    "relax.concat",
    "relax.nn.pad",
    "relax.call_tir",
)
MOVEMENTS = (*_RESHAPES, *_PICKS, "relax.permute_dims")

Moved = tuple[relax.Expr, Quantum]


class Movement:
    """A call that moves elements of ``data`` to its result.

    Args:
        call: one whose operator is among MOVEMENTS.
        attrs: of the function that call_tir calls; None for other operators.
    """

    def __init__(self, call: relax.Call, attrs: dict | None) -> None:
        self.call = call
        self.name = call.op.name
        self.axis_op = AxisOp.of(attrs) if attrs else None

    @property
    def is_known(self) -> bool:
        """Whether the call is a movement after all: call_tir may be anything."""
        if self.name != "relax.call_tir":
            return True
        return self.axis_op is not None and self.axis_op.function in ("repeated", "taken")

    @property
    def shrinks(self) -> bool:
        """Whether most elements may be left out."""
        return self.name == "relax.strided_slice"

    @property
    def data(self) -> list[relax.Expr]:
        """The tensors whose elements move."""
        first = self.call.args[1 if self.name == "relax.call_tir" else 0]
        if isinstance(first, relax.Tuple):
            return list(first.fields)[: 1 if self.axis_op else None]
        return [first]

    def keeps(self, quantum: Quantum) -> bool:
        """Whether the result's real values are those that its integers stand for."""
        if self.name != "relax.nn.pad" or self.call.attrs.pad_mode != "constant":
            return True
        value = np.asarray(self.call.attrs.pad_value, "float32")
        return bool(quantum.dequantize(quantum.quantize(value)) == value) and quantum.per_tensor

    def emit(
        self, builder: relax.BlockBuilder, stored: Sequence[relax.Expr], quantum: Quantum
    ) -> Moved | None:
        """The movement of integers of one quantum, and the result's.

        None where the quantum belongs to an axis that does not survive.
        """
        moved = self._quantum(quantum)
        return None if moved is None else (self._emit(builder, stored, quantum), moved)

    def _quantum(self, quantum: Quantum) -> Quantum | None:
        if quantum.per_tensor:
            return quantum
        old = shape_of(self.data[0])
        if self.name == "relax.permute_dims":
            axes = self.call.attrs.axes
            return permuted(quantum, [int(a) for a in axes or range(len(old) - 1, -1, -1)])
        if self.name in _RESHAPES:
            return reshaped(quantum, old, shape_of(self.call))
        return None

    def _emit(
        self, builder: relax.BlockBuilder, stored: Sequence[relax.Expr], quantum: Quantum
    ) -> relax.Expr:
        call = self.call
        if self.axis_op is not None:
            tables = list(call.args[1].fields)[1:]
            attrs = self.axis_op.attrs
            return builder.emit_te(
                self.axis_op, *stored, *tables, primfunc_name_hint="resize", primfunc_attrs=attrs
            )
        if self.name == "relax.concat":
            return builder.emit(relax.op.concat(list(stored), int(call.attrs.axis)))
        if self.name == "relax.nn.pad" and call.attrs.pad_mode == "constant":
            widths = [int(w) for w in call.attrs.pad_width]
            step = quantum.quantize(np.asarray(call.attrs.pad_value, "float32"))
            return builder.emit(relax.op.nn.pad(stored[0], widths, "constant", float(step)))
        return builder.emit(relax.Call(call.op, [stored[0], *call.args[1:]], call.attrs))


def movement_of(expr: relax.Expr | None, module: tvm.IRModule) -> Movement | None:
    """The movement that an expression is."""
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") not in MOVEMENTS:
        return None
    attrs = module[expr.args[0]].attrs if expr.op.name == "relax.call_tir" else None
    movement = Movement(expr, dict(attrs) if attrs else None)
    return movement if movement.is_known else None
