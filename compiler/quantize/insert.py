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

from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.dynamic import Rows, emit_product, emit_rows
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import Quantum, emit_dequantize, emit_quantize
from compiler.quantize.weight_only import stored_call


@dataclass(frozen=True, eq=False)
class Weights:
    """Args:
    values: int8, as the operator has them.
    quantum: of them.
    bias: to be added to the operator's result, float32, one value a channel; None for none.
    """

    values: np.ndarray
    quantum: Quantum
    bias: np.ndarray | None = None


def insert(
    plan: Plan,
    activations: Mapping[relax.Var, Quantum],
    weights: Mapping[relax.Var, Weights],
    dtype: str,
) -> tuple[tvm.IRModule, dict[relax.Var, Copy]]:
    """The plan's module in the interchange form (see ``qdq``), and where its tensors are there.

    Args:
        activations: of every tensor that the plan stores.
        weights: of every convolution and product with constant weights that the plan computes in
            integers, by its result.
        dtype: of rows that are quantised at run time.
    """
    inserter = _Inserter(plan, activations, weights, dtype)
    return inserter.rewrite(plan.graph.module), inserter.copies()


@dataclass(frozen=True, eq=False)
class Copy:
    """A tensor of the float graph in the quantised one: ``quantum`` is None for floats."""

    var: relax.Var
    quantum: Quantum | None


@dataclass(frozen=True, eq=False)
class _Quantized:
    """A tensor that is stored as integers; ``plain`` only where it also exists as floats."""

    integers: relax.Var
    quantum: Quantum
    real: relax.Expr | None


@dataclass(frozen=True, eq=False)
class _Bias:
    """Shaped to broadcast along the output channels; ``unit`` is one step of the sums."""

    bias: np.ndarray
    unit: np.ndarray

    def plus(self, constant: np.ndarray | float) -> np.ndarray:
        """The sum of both in whole steps, float32."""
        return (np.rint((constant + self.bias) / self.unit) * self.unit).astype("float32")


class _Inserter(Rewriter):
    def __init__(
        self,
        plan: Plan,
        activations: Mapping[relax.Var, Quantum],
        weights: Mapping[relax.Var, Weights],
        dtype: str,
    ) -> None:
        super().__init__()
        self.plan, self.activations, self.weights = plan, activations, weights
        self.dtype = dtype
        self.rows: dict[relax.Expr, Rows] = {}
        self.tensors: dict[relax.Var, _Quantized] = {}
        self.biases: dict[relax.Var, _Bias] = {}  # by the addition they become part of

    def copies(self) -> dict[relax.Var, Copy]:
        """What became of stored tensors, of what integer operators hand over, and of results."""
        found = {var: Copy(t.integers, t.quantum) for var, t in self.tensors.items()}
        ends = [r.end for r in self.plan.graph.regions if self.plan.reads_integers(r)]
        for var in [*ends, *self.plan.graph.outputs]:
            if var not in found and isinstance(self.value(var), relax.Var):
                found[var] = Copy(self.value(var), None)
        return found

    def params(self, main: relax.Function) -> list[relax.Var]:
        return [self._param(param) for param in main.params]

    def _param(self, param: relax.Var) -> relax.Var:
        stored = self.plan.stored.get(param)
        if stored is None or stored.copy:
            return param
        quantum = self.activations[param]
        integers = relax.Var(param.name, relax.TensorType(shape_of(param), quantum.dtype))
        self.tensors[param] = _Quantized(integers, quantum, None)
        return integers

    def begin(self, main: relax.Function) -> None:
        for param in main.params:
            if param not in self.tensors:
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
        if bound == region.anchor and region in self.plan.dynamic:
            return self._product_of_rows(call, self.weights[bound])
        is_anchor = bound == region.anchor and self.plan.is_integer(region)
        arguments = [self._argument(a, is_anchor) for a in call.args]
        if bound in self.biases:
            arguments = [self._plus(a, self.biases[bound]) for a in arguments]
        found = self.weights.get(bound)
        if found is None:
            made = relax.Call(call.op, arguments, call.attrs, call.ty_args)
            choice = self.plan.choices[region]
            stored = stored_call(self.builder, made, choice, self.plan.graph.module)
            return self.emit(made if stored is None else stored)
        arguments[1] = self._dequantized(relax.const(found.values), found.quantum)
        value = self.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
        return self._biased(bound, value, found)

    def _product_of_rows(self, call: relax.Call, weights: Weights) -> relax.Var:
        """The product of rows that are quantised here, once for all products that read them."""
        x = self._argument(call.args[0], False)
        if x not in self.rows:
            self.rows[x] = emit_rows(self.builder, x, self.dtype)
        return emit_product(self.builder, self.rows[x], weights.values, weights.quantum.scale)

    def _biased(self, bound: relax.Var, value: relax.Var, weights: Weights) -> relax.Var:
        """Adds a bias to the result of an operator, to the one that is there if there is one.

        Sums of products are integers, and so are biases: multiples of both scales' product.
        """
        graph = self.plan.graph
        rank = len(shape_of(bound))
        axis = rank - 1 if graph.op(bound) == "relax.matmul" else 1

        def shaped(values: np.ndarray) -> np.ndarray:
            return values.reshape([-1 if a == axis else 1 for a in range(rank)])

        scale = self.activations[graph.operands[bound][0]].scale.astype("float64")
        unit = shaped(_per_channel(weights.quantum.scale * scale, shape_of(bound)[axis]))
        bias = shaped(np.zeros(1) if weights.bias is None else weights.bias)
        readers = graph.readers.get(bound, [])
        if len(readers) == 1 and self._adds_constant(readers[0]):
            self.biases[readers[0]] = _Bias(bias, unit)
            return value
        if weights.bias is None:
            return value
        return self.emit(relax.op.add(value, relax.const(_Bias(bias, unit).plus(0.0))))

    def _adds_constant(self, var: relax.Var) -> bool:
        """Whether it adds a constant to a tensor that stays as large as it is."""
        graph = self.plan.graph
        if graph.op(var) != "relax.add" or len(graph.operands[var]) != 1:
            return False
        return shape_of(graph.operands[var][0]) == shape_of(var)

    @staticmethod
    def _plus(argument: relax.Expr, bias: _Bias) -> relax.Expr:
        constant = constant_of(argument)
        return argument if constant is None else relax.const(bias.plus(constant))

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
        return self._result(main.body.body)

    def _result(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._result(f) for f in expr.fields])
        if isinstance(expr, relax.Var):
            source = self.plan.graph.origin(expr)
            value = self.plan.graph.values.get(source)
            if isinstance(value, relax.Tuple):
                return self._result(value)
            if source in self.tensors and self.tensors[source].real is None:
                return self.tensors[source].integers
        return self._argument(expr, False)


def _per_channel(scales: np.ndarray, channels: int) -> np.ndarray:
    """One value a channel; transposed convolutions have those of one group."""
    flat = np.atleast_1d(scales)
    return flat if len(flat) in (1, channels) else np.tile(flat, channels // len(flat))
