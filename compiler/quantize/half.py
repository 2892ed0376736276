"""Arithmetic in float16 wherever that keeps enough digits.

    before:  y = conv2d(x, w);  z = relu(y);  s = softmax(z)                      float32
    after:   y = conv2d(x', w');  z = relu(y);  s = softmax(astype(z, "float32"))

Convolutions, products and what is computed element by element between them are in float16. What
adds up squares or many values, or takes powers, stays in float32: softmax, normalisations, means.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from compiler.frontend.axis_ops import AxisOp
from compiler.passes.packed_values import constant_of
from compiler.passes.rewriter import Rewriter

LARGEST = float(np.finfo("float16").max)
# Windows up to this size are averaged in float16.
MOST_TAPS = 16

# fmt: off
PRODUCTS = (
    "matmul", "nn.conv1d", "nn.conv2d", "nn.conv1d_transpose", "nn.conv2d_transpose",
)
_ELEMENTWISE = (
    "abs", "add", "ceil", "clip", "divide", "erf", "floor", "maximum", "minimum", "multiply",
    "negative", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.prelu", "nn.relu", "nn.silu",
    "round", "sigmoid", "sign", "subtract", "tanh", "where",
)
# Values stay what they are.
_MOVES = (
    "broadcast_to", "concat", "expand_dims", "flatten", "flip", "max", "min", "nn.max_pool1d",
    "nn.max_pool2d", "nn.pad", "permute_dims", "repeat", "reshape", "split", "squeeze",
    "strided_slice", "tile",
)
# Computed in float32, with results that float16 holds.
_BOUNDED = (
    "mean", "nn.adaptive_avg_pool2d", "nn.avg_pool1d", "nn.group_norm", "nn.instance_norm",
    "nn.layer_norm", "nn.rms_norm", "nn.softmax",
)
# fmt: on


def compute_in_half(
    module: tvm.IRModule, kept: Collection[relax.Var] = (), half_io: bool = False
) -> HalfModule:
    """A simplified module in float16.

    Args:
        kept: results that are computed in float32.
        half_io: inputs and outputs that were float32 are float16.
    """
    rewriter = _Narrower(kept, half_io)
    return HalfModule(rewriter.rewrite(module), rewriter.narrowed, frozenset(rewriter.products))


@dataclass(frozen=True, eq=False)
class HalfModule:
    """Args:
    narrowed: tensors of the float32 module that the new one has in 16 bits (in both, where some
        readers want float32).
    products: results of convolutions and products whose operands are narrow.
    """

    module: tvm.IRModule
    narrowed: set[relax.Var]
    products: frozenset[relax.Var]


@dataclass(frozen=True, eq=False)
class _Half:
    """A tensor, or a tuple of tensors, of float16."""

    expr: relax.Expr


class _Narrower(Rewriter):
    def __init__(self, kept: Collection[relax.Var], half_io: bool) -> None:
        super().__init__()
        self.kept, self.half_io = set(kept), half_io
        self.narrowed: set[relax.Var] = set()
        self.products: set[relax.Var] = set()
        # Tensors of float32 of which readers take copies in float16.
        self.bounded: set[relax.Var] = set()
        self.copies: dict[relax.Var, relax.Var] = {}
        for names, handler in (
            (PRODUCTS, self._product),
            (_ELEMENTWISE, self._elementwise),
            (_MOVES, self._move),
            (_BOUNDED, self._bounded),
        ):
            self.handlers |= {f"relax.{name}": handler for name in names}
        self.handlers |= {
            "relax.nn.avg_pool2d": self._average,
            "relax.call_tir": self._kernel,
        }

    def params(self, main: relax.Function) -> list[relax.Var]:
        """float16 where they shall be, else themselves."""
        found = []
        for param in main.params:
            if _is_float32(param):
                self.bounded.add(param)
                self.narrowed.add(param)
                if self.half_io:
                    narrow = relax.Var(param.name, relax.TensorType(param.ty.shape, "float16"))
                    self._values[param] = _Half(narrow)
                    param = narrow
            found.append(param)
        return found

    def to_plain(self, value: _Half) -> relax.Expr:
        return self.emit(relax.op.astype(value.expr, "float32"))

    def result(self, main: relax.Function) -> relax.Expr:
        body = main.body.body
        if not self.half_io:
            return self.plain(body)
        opened = self.value(body)
        if isinstance(opened, relax.Tuple):
            return relax.Tuple([self._result(field) for field in opened.fields])
        return self._result(body)

    def _result(self, expr: relax.Expr) -> relax.Expr:
        return self._half(expr) if _is_float32(expr) else self.plain(expr)

    def _rewrite_value(self, expr: relax.Expr) -> Any:
        if isinstance(expr, relax.TupleGetItem):
            whole = self.value(expr.tuple_value)
            if isinstance(whole, _Half):
                return self._note(relax.TupleGetItem(whole.expr, expr.index))
        if isinstance(expr, relax.Tuple) and self.half_io:
            return expr  # opened by ``result``
        return super()._rewrite_value(expr)

    def _note(self, expr: relax.Expr) -> _Half:
        assert self.bound is not None
        self.narrowed.add(self.bound)
        return _Half(self.emit(expr))

    def _fits(self, expr: relax.Expr) -> bool:
        """Whether an operand may be of float16."""
        if isinstance(expr, relax.Tuple):
            return all(self._fits(field) for field in expr.fields)
        if not isinstance(expr, relax.Var) or not _is_float32(expr):
            return True  # constants, shapes, conditions
        return expr in self.bounded or isinstance(self.value(expr), _Half)

    def _half(self, expr: relax.Expr) -> relax.Expr:
        """An operand in float16; what is no float stays what it is."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._half(field) for field in expr.fields])
        value = self.value(expr)
        if isinstance(value, _Half):
            return value.expr
        if isinstance(value, relax.Tuple):
            return self._half(value)
        if not _is_float32(expr):
            return self.plain(expr)
        constant = constant_of(value)
        if constant is not None:
            return relax.const(to_float16(constant))
        if expr not in self.copies:
            self.narrowed.add(expr)
            self.copies[expr] = self.emit(relax.op.astype(self.plain(expr), "float16"), "half")
        return self.copies[expr]

    def _narrow(self, call: relax.Call) -> _Half | None:
        if not _is_float32(call) or self.bound in self.kept:
            return None
        arguments = [self._half(a) for a in call.args]
        return self._note(relax.Call(call.op, arguments, call.attrs, call.ty_args))

    def _product(self, call: relax.Call) -> _Half | None:
        found = self._narrow(call)
        if found is not None and self.bound is not None:
            self.products.add(self.bound)
        return found

    def _elementwise(self, call: relax.Call) -> _Half | None:
        """In float16 unless an operand comes from what is computed in float32, or is squared."""
        variables = [a for a in call.args if isinstance(a, relax.Var)]
        squared = call.op.name == "relax.multiply" and len({*variables}) < len(variables)
        if squared or not all(self._fits(a) for a in call.args):
            return None
        return self._narrow(call)

    def _move(self, call: relax.Call) -> _Half | None:
        if not self._fits(call.args[0]):
            return None
        return self._narrow(call)

    def _bounded(self, call: relax.Call) -> None:
        """Means of more than a picture may be those of a normalisation."""
        if call.op.name == "relax.mean" and not _over_space(call):
            return
        if _is_float32(call) and self.bound not in self.kept:
            self.bounded.add(self.bound)

    def _average(self, call: relax.Call) -> _Half | None:
        if np.prod([int(e) for e in call.attrs.pool_size]) > MOST_TAPS:
            self._bounded(call)
            return None
        return self._move(call)

    def _kernel(self, call: relax.Call) -> None:
        """Resizes and other moves along an axis keep the range of what they read."""
        function = self.functions[call.args[0]]
        if AxisOp.of(function.attrs) is not None and all(
            self._fits(a) for a in call.args[1].fields
        ):
            self._bounded(call)

    def rewrite(self, module: tvm.IRModule) -> tvm.IRModule:
        self.functions = module
        return super().rewrite(module)


def to_float16(values: np.ndarray) -> np.ndarray:
    """The nearest numbers of float16; finite ones stay finite."""
    if values.dtype != np.float32:
        return values
    finite = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    return finite.astype(np.float16)


def _is_float32(expr: relax.Expr) -> bool:
    ty = expr.ty
    if isinstance(ty, relax.TupleType):
        return all(str(getattr(field, "dtype", "")) == "float32" for field in ty.fields)
    return str(getattr(ty, "dtype", "")) == "float32"


def _over_space(call: relax.Call) -> bool:
    rank = len(call.args[0].ty.shape)
    axes = call.attrs.axis
    chosen = {int(a) % rank for a in axes} if axes is not None else set()
    return rank >= 3 and chosen == set(range(2, rank))
