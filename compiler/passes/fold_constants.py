"""Evaluate operators on constants with NumPy.

Before:  add(conv2d(x, w), reshape(const, (1, C, 1, 1)))
After:   add(conv2d(x, w), const')

The stock pass compiles a kernel for each constant; this one takes microseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter

# Larger results stay operators: they would only bloat the library.
MAX_GROWTH_BYTES = 1 << 20

Evaluator = Callable[[relax.Call, list[np.ndarray]], np.ndarray]


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """Replace calls whose operands are all constant by their value."""
    return _Folder().rewrite(module)


def _to_result_shape(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
    return values[0].reshape(shape_of(call))


def _permute_dims(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
    axes = call.attrs.axes
    return values[0].transpose(None if axes is None else [int(a) for a in axes])


def _astype(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
    return values[0].astype(str(call.ty.dtype))


def _broadcast_to(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
    return np.broadcast_to(values[0], shape_of(call))


def _concat(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(values, axis=int(call.attrs.axis))


def _elementwise(function: Callable[..., np.ndarray]) -> Evaluator:
    def evaluate(call: relax.Call, values: list[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return function(*values).astype(str(call.ty.dtype))

    return evaluate


EVALUATORS: dict[str, Evaluator] = {
    "relax.reshape": _to_result_shape,
    "relax.expand_dims": _to_result_shape,
    "relax.squeeze": _to_result_shape,
    "relax.flatten": _to_result_shape,
    "relax.permute_dims": _permute_dims,
    "relax.astype": _astype,
    "relax.broadcast_to": _broadcast_to,
    "relax.concat": _concat,
    "relax.add": _elementwise(np.add),
    "relax.subtract": _elementwise(np.subtract),
    "relax.multiply": _elementwise(np.multiply),
    "relax.maximum": _elementwise(np.maximum),
    "relax.minimum": _elementwise(np.minimum),
    "relax.negative": _elementwise(np.negative),
    "relax.sqrt": _elementwise(np.sqrt),
    "relax.isnan": _elementwise(np.isnan),
    "relax.where": _elementwise(np.where),
}


class _Folder(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.handlers |= dict.fromkeys((*EVALUATORS, "relax.divide"), self._fold)

    def _fold(self, call: relax.Call) -> relax.Expr | None:
        evaluate = EVALUATORS.get(call.op.name) or _division(call)
        values = []
        for operand in self._operands(call):
            value = constant_of(operand)
            if value is None:
                return None
            values.append(value)
        result = np.ascontiguousarray(evaluate(call, values))
        if not values or result.nbytes > sum(v.nbytes for v in values) + MAX_GROWTH_BYTES:
            return None
        return relax.const(result.reshape(shape_of(call)), str(call.ty.dtype))

    def _operands(self, call: relax.Call) -> list[relax.Expr]:
        operands: list[relax.Expr] = []
        for argument in call.args:
            if isinstance(argument, relax.Tuple):
                operands += [self.plain(field) for field in argument.fields]
            elif not isinstance(argument, relax.ShapeExpr):
                operands.append(self.plain(argument))
        return operands


def _division(call: relax.Call) -> Evaluator:
    """True division of floats; integers truncate towards zero as in C."""
    if str(call.ty.dtype).startswith("float"):
        return _elementwise(np.divide)
    return _elementwise(lambda a, b: np.trunc(np.divide(a, np.where(b == 0, 1, b))))
