"""Writes quantize and dequantize operators where a plan wants them.

Before:  y = relu(add(conv2d(x, w), b)); z = conv2d(y, v)
After:   q = quantize(x)
         y = quantize(relu(add(conv2d(dequantize(q), dequantize(w')), b)))
         z = conv2d(dequantize(y), dequantize(v'))

Every reader has a dequantize of its own, so that it can become part of the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from compiler.passes.rewriter import Rewriter
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import Quantum, emit_dequantize, emit_quantize


@dataclass(frozen=True, eq=False)
class Weights:
    """Args:
    values: int8, as the operator has them.
    quantum: of them.
    bias: added to the result behind the operator, one value a channel; None for none.
    """

    values: np.ndarray
    quantum: Quantum


def insert(
    plan: Plan, activations: Mapping[relax.Var, Quantum], weights: Mapping[relax.Var, Weights]
) -> tvm.IRModule:
    """The plan's module in the interchange form (see ``qdq``).

    Args:
        activations: of every tensor that the plan stores.
        weights: of every convolution and product with constant weights that the plan computes in
            integers, by its result.
    """
    return _Inserter(plan, activations, weights).rewrite(plan.graph.module)


@dataclass(frozen=True, eq=False)
class _Quantized:
    """A tensor that is stored as integers; ``plain`` only where it also exists as floats."""

    integers: relax.Var
    quantum: Quantum
    real: relax.Expr | None


class _Inserter(Rewriter):
    def __init__(
        self,
        plan: Plan,
        activations: Mapping[relax.Var, Quantum],
        weights: Mapping[relax.Var, Weights],
    ) -> None:
        super().__init__()
        self.plan, self.activations, self.weights = plan, activations, weights
        self.tensors: dict[relax.Var, _Quantized] = {}

    def begin(self, main: relax.Function) -> None:
        for param in main.params:
            self._store(param, param)

    def _rewrite_value(self, expr: relax.Expr) -> relax.Expr:
        bound = self.bound
        assert bound is not None
        if isinstance(expr, relax.Call):
            value = self._call(bound, expr)
        else:
            value = super()._rewrite_value(expr)
        self._store(bound, value)
        return value

    def _call(self, bound: relax.Var, call: relax.Call) -> relax.Expr:
        region = self.plan.graph.region_of[bound]
        is_anchor = bound == region.anchor and self.plan.is_integer(region)
        arguments = [self._argument(a, is_anchor) for a in call.args]
        if bound in self.weights:
            found = self.weights[bound]
            arguments[1] = self._dequantized(relax.const(found.values), found.quantum)
        return self.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))

    def _argument(self, expr: relax.Expr, is_anchor: bool) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._argument(f, is_anchor) for f in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        source = self.plan.graph.origin(expr)
        if isinstance(self.plan.graph.values.get(source), relax.Tuple):
            return self._argument(self.plan.graph.values[source], is_anchor)
        found = self.tensors.get(source)
        if found is None:
            return self.plain(expr)
        if found.real is not None and not is_anchor:
            return found.real
        return self._dequantized(found.integers, found.quantum)

    def _dequantized(self, integers: relax.Expr, quantum: Quantum) -> relax.Var:
        return emit_dequantize(self.builder, integers, quantum)

    def _store(self, var: relax.Var, value: relax.Expr) -> None:
        stored = self.plan.stored.get(var)
        if stored is None:
            return
        quantum = self.activations[var]
        integers = emit_quantize(self.builder, value, quantum)
        self.tensors[var] = _Quantized(integers, quantum, value if stored.copy else None)

    def result(self, main: relax.Function) -> relax.Expr:
        return self._argument(main.body.body, False)
