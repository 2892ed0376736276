"""What a Relax module computes, by NumPy in float64: the reference of quantised graphs.

Nothing of it is shared with the way to a library: no layouts, no fusion, no schedules, no integer
arithmetic. Operators without an entry in ``EVALUATORS`` run one by one as TVM's own, unscheduled
kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import relax

from compiler.passes.packed_values import shape_of
from compiler.quantize.dynamic import quantize_rows64, rows_dtype
from compiler.quantize.groups import groups_of
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE, Quantum, quantum_of
from compiler.quantize.reference_ops import EVALUATORS

# What is about to be rounded, and to which integers; None for the operator "round".
Disturbance = Callable[[np.ndarray, Quantum | None], np.ndarray]


def evaluate(
    module: tvm.IRModule,
    inputs: Mapping[str, np.ndarray],
    disturb: Disturbance = lambda values, quantum: values,
) -> list[np.ndarray]:
    """The results of ``main``, floats as float32.

    Args:
        inputs: by the parameters' Relax names.
        disturb: changes what is about to be quantised, to see what rounding errors do.
    """
    return Evaluator(module).run(inputs, disturb)


class Evaluator:
    """Evaluates one module as often as asked; kernels are compiled once."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        self.main = module["main"]
        self._kernels: dict[Any, Callable] = {}
        self._last_reads = _last_reads(self.main)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        disturb: Disturbance = lambda values, quantum: values,
    ) -> list[np.ndarray]:
        result = self._run(inputs, disturb, {})
        body = self.main.body.body
        types = body.ty.fields if isinstance(body.ty, relax.TupleType) else [body.ty]
        results = result if isinstance(result, list) else [result]
        return [np.asarray(r).astype(str(ty.dtype)) for r, ty in zip(results, types, strict=True)]

    def trace(
        self, inputs: Mapping[str, np.ndarray], wanted: Iterable[relax.Var]
    ) -> dict[relax.Var, np.ndarray]:
        """The values of some variables."""
        found: dict[relax.Var, Any] = dict.fromkeys(wanted)
        self._run(inputs, lambda values, quantum: values, found)
        return found

    def _run(
        self,
        inputs: Mapping[str, np.ndarray],
        disturb: Disturbance,
        found: dict[relax.Var, Any],
    ) -> Any:
        values: dict[relax.Var, Any] = {}
        for param in self.main.params:
            values[param] = _wide(inputs[param.name])
            if param in found:
                found[param] = values[param]
        index = 0
        for block in self.main.body.blocks:
            for binding in block.bindings:
                values[binding.var] = self._value(binding.value, values, disturb)
                if binding.var in found:
                    found[binding.var] = values[binding.var]
                for dead in self._last_reads.get(index, ()):
                    del values[dead]
                index += 1
        return self._value(self.main.body.body, values, disturb)

    def _value(self, expr: relax.Expr, values: Mapping, disturb: Disturbance) -> Any:
        if isinstance(expr, relax.Var):
            return values[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return _wide(expr.value.numpy())
        if isinstance(expr, relax.Tuple):
            return [self._value(f, values, disturb) for f in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value, values, disturb)[expr.index]
        if isinstance(expr, relax.Call):
            return self._call(expr, values, disturb)
        return expr  # shapes and numbers, which the operators' attributes repeat

    def _call(self, call: relax.Call, values: Mapping, disturb: Disturbance) -> Any:
        name = getattr(call.op, "name", "")
        groups = groups_of(call, self.module)
        if groups is not None:
            return groups.dequantize64()
        quantum = quantum_of(call, QUANTIZE) or quantum_of(call, DEQUANTIZE)
        if quantum is not None:
            x = self._value(call.args[0], values, disturb)
            if name == QUANTIZE:
                return quantum.quantize64(disturb(x, quantum))
            return quantum.dequantize64(x)
        dtype = rows_dtype(call, self.module)
        if dtype is not None:
            x = self._value(call.args[1].fields[0], values, disturb)
            return quantize_rows64(disturb(x, None), dtype)
        arguments = [self._value(a, values, disturb) for a in call.args]
        if name == "relax.round":  # quantisation by scales known at run time alone
            arguments = [np.asarray(disturb(arguments[0], None))]
        evaluate_ = EVALUATORS.get(name)
        if evaluate_ is not None:
            with np.errstate(all="ignore"):
                result = evaluate_(call, *arguments)
            if result is not None:
                return np.asarray(result).reshape(shape_of(call))
        return self._stock(call, arguments)

    def _stock(self, call: relax.Call, arguments: list[Any]) -> Any:
        """By TVM's own kernel, in the operator's precision."""
        if call not in self._kernels:
            self._kernels[call] = _compile(self.module, call)
        flat = []
        for value in arguments:
            flat += value if isinstance(value, list) else [value]
        types = _tensor_types(call.args)
        arrays = [v for v in flat if isinstance(v, np.ndarray)]
        tensors = [
            tvm.runtime.tensor(np.ascontiguousarray(a.astype(str(ty.dtype))).reshape(a.shape))
            for a, ty in zip(arrays, types, strict=True)
        ]
        result = self._kernels[call](*tensors)
        if hasattr(result, "numpy"):
            return _wide(result.numpy())
        return [_wide(item.numpy()) for item in result]


def _wide(array: np.ndarray) -> np.ndarray:
    real = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
    return array.astype("float64") if real else array


def _tensor_types(arguments: Any) -> list[Any]:
    found = []
    for expr in arguments:
        if isinstance(expr, relax.Tuple):
            found += _tensor_types(expr.fields)
        elif isinstance(expr.ty, relax.TupleType):
            found += list(expr.ty.fields)
        elif isinstance(expr.ty, relax.TensorType):
            found.append(expr.ty)
    return found


def _compile(module: tvm.IRModule, call: relax.Call) -> Callable:
    """A function of the call's tensors."""
    others = {gvar: f for gvar, f in module.functions.items() if gvar.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    params: list[relax.Var] = []

    def stand_in(expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([stand_in(f) for f in expr.fields])
        if isinstance(expr.ty, relax.TupleType):
            return relax.Tuple([parameter(ty) for ty in expr.ty.fields])
        return parameter(expr.ty) if isinstance(expr.ty, relax.TensorType) else expr

    def parameter(ty: Any) -> relax.Var:
        params.append(relax.Var(f"p{len(params)}", ty))
        return params[-1]

    arguments = [stand_in(a) for a in call.args]
    with builder.function("main", params):
        result = builder.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
        builder.emit_func_output(result)
    target = tvm.target.Target("llvm")
    with target:
        program = relax.transform.DecomposeOpsForInference()(builder.finalize())
        program = relax.transform.LegalizeOps()(program)
        executable = tvm.compile(program, target)
    return relax.VirtualMachine(executable, tvm.cpu())["main"]


def _last_reads(main: relax.Function) -> dict[int, list[relax.Var]]:
    """Variables that nobody reads after a binding, by the binding's number."""
    last: dict[relax.Var, int] = {}

    def read(expr: relax.Expr, index: int) -> None:
        if isinstance(expr, relax.Var):
            last[expr] = index
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                read(field, index)
        elif isinstance(expr, relax.Call):
            for argument in expr.args:
                read(argument, index)
        elif isinstance(expr, relax.TupleGetItem):
            read(expr.tuple_value, index)

    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    for index, binding in enumerate(bindings):
        read(binding.value, index)
    read(main.body.body, len(bindings))
    found: dict[int, list[relax.Var]] = {}
    for var, index in last.items():
        found.setdefault(index, []).append(var)
    return found
