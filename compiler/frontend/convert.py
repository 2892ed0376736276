"""From a checked model to the Relax module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, te

from compiler.errors import EdgeccError
from compiler.frontend.bind import SUPPORTED_DTYPES, Bindings, bind_inputs
from compiler.frontend.graph import OUTPUT_SUFFIX, GraphImporter, Scope, Value, raise_unsupported
from compiler.frontend.node import dtype_of, shape_of
from compiler.frontend.prune import live_nodes
from compiler.frontend.tensors import to_numpy
from compiler.program import TensorInfo

Converted = tuple[tvm.IRModule, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]


def convert(
    path: Path,
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    consts: Mapping[str, np.ndarray],
) -> Converted:
    """Relax module, inputs and outputs of a checked model.

    Raises:
        EdgeccError: a name, shape or operator cannot be taken.
    """
    graph = model.graph
    bindings = bind_inputs(path, graph, shapes, consts)
    nodes = live_nodes(graph)
    builder = relax.BlockBuilder()
    importer = GraphImporter(path, model, builder)
    params = _parameters(bindings)
    failure: Exception | None = None
    outputs: list[relax.Expr] = []
    with builder.function("main", params):
        with builder.dataflow():
            try:
                scope = _scope(path, graph, nodes, bindings, params)
                importer.run(nodes, scope, importer.opsets)
                raise_unsupported(path, importer.unsupported)
                outputs = _outputs(path, importer, graph, scope)
            except Exception as error:  # leaving the builder half-open makes TVM print a warning
                failure = error
            result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
            # canonical form keeps the name of an output, and drops that of what it is bound to
            name = result.name + OUTPUT_SUFFIX if isinstance(result, relax.Var) else ""
            result = builder.emit_output(result, name_hint=name)
        builder.emit_func_output(result)
    if failure:
        raise failure
    module = relax.transform.DeadCodeElimination()(builder.get())
    infos = tuple(
        TensorInfo(info.name, dtype_of(value), shape_of(value))
        for info, value in zip(graph.output, outputs, strict=True)
    )
    return module, bindings.inputs, infos


def _parameters(bindings: Bindings) -> list[relax.Var]:
    taken: set[str] = set()
    params = []
    for info in bindings.inputs:
        stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in info.name) or "input"
        name = stem = f"in_{stem}" if stem[0].isdigit() else stem
        count = 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        params.append(relax.Var(name, relax.TensorType(info.shape, info.dtype)))
    return params


def _scope(
    path: Path,
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    bindings: Bindings,
    params: list[relax.Var],
) -> Scope:
    scope: Scope = {}
    for tensor in graph.initializer:
        array = to_numpy(tensor)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise EdgeccError(
                f"{path}: initializer '{tensor.name}' contains NaN",
                "the weights are damaged (did the training diverge?); export the model again",
            )
        scope[tensor.name] = Value(array)
    _check_infinite(path, nodes, scope)
    scope.update({name: Value(array) for name, array in bindings.constants.items()})
    for info, param in zip(bindings.inputs, params, strict=True):
        empty = 0 in info.shape  # no elements: known already
        data = np.zeros(info.shape, info.dtype) if empty else param
        scope[info.name] = Value(data, frozenset() if empty else frozenset([info.name]))
    return scope


# An infinite mask is ordinary, an infinite factor is not: it makes NaN of every zero.
_FACTORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LSTM", "GRU", "RNN")


def _check_infinite(path: Path, nodes: list[onnx.NodeProto], scope: Scope) -> None:
    for node in nodes:
        if node.op_type not in _FACTORS:
            continue
        for name in node.input:
            array = scope[name].data if name in scope else None
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            if np.isinf(array).any():
                raise EdgeccError(
                    f"{path}: initializer '{name}' contains infinite weights",
                    "the weights are damaged; export the model again",
                )


def _outputs(
    path: Path, importer: GraphImporter, graph: onnx.GraphProto, scope: Scope
) -> list[relax.Expr]:
    values = [scope[output.name].data for output in graph.output]
    return [
        _output(path, importer, info.name, value, values[:index])
        for index, (info, value) in enumerate(zip(graph.output, values, strict=True))
    ]


def _output(
    path: Path, importer: GraphImporter, name: str, value: Any, earlier: list[Any]
) -> relax.Expr:
    """The expression of a graph output, a copy where it is no tensor computed only for it."""
    if not isinstance(value, (np.ndarray, relax.Expr)):
        raise EdgeccError(
            f"{path}: output '{name}' is no tensor", "only tensors can be outputs; select others"
        )
    if dtype_of(value) not in SUPPORTED_DTYPES:
        raise EdgeccError(
            f"{path}: output '{name}' has element type {dtype_of(value)}, which is not supported",
            f"supported are: {', '.join(SUPPORTED_DTYPES)}",
        )
    expr = importer.as_expr(value)
    computed = isinstance(expr, relax.Var) and importer.builder.lookup_binding(expr) is not None
    if computed and not any(value is other for other in earlier):
        return expr
    return importer.builder.emit_te(_copy, expr, primfunc_name_hint="copy")


def _copy(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i), name="copy")
