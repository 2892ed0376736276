"""Inlining: function bodies, branches of known conditions, loops of known length, sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper
from tvm import relax

from compiler.frontend import limits
from compiler.frontend.node import ConversionError, OperandNotConstantError, dtype_of, shape_of

if TYPE_CHECKING:
    from compiler.frontend.graph import GraphImporter, Scope, Value


def inline(
    importer: GraphImporter,
    node: onnx.NodeProto,
    function: onnx.FunctionProto,
    values: Sequence[Value],
) -> list[Any]:
    """Translates a function's body in place of the ``node`` that calls it."""
    from compiler.frontend.graph import Value

    attributes = {a.name: a for a in function.attribute_proto}
    attributes.update({a.name: a for a in node.attribute})
    scope: Scope = {name: Value(None) for name in function.input}
    scope.update(zip(function.input, values, strict=False))
    opsets = {**importer.opsets, **{o.domain: o.version for o in function.opset_import}}
    body = [_resolve(inner, attributes) for inner in function.node]
    for index, inner in enumerate(body):
        if not inner.name:
            inner.name = f"{node.name or node.op_type}_{inner.op_type}_{index}"
    importer.run(body, scope, opsets)
    return [scope[name].data if name in scope else None for name in function.output]


def _resolve(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A copy of ``node`` with references to the function's attributes replaced by their values."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            actual = attributes.get(attribute.ref_attr_name)
            if actual is None:
                continue  # left out by the caller: the operator's default holds
            new = copy.attribute.add()
            new.CopyFrom(actual)
            new.name = attribute.name
        else:
            new = copy.attribute.add()
            new.CopyFrom(attribute)
            if new.HasField("g"):
                nodes = [_resolve(inner, attributes) for inner in attribute.g.node]
                del new.g.node[:]
                new.g.node.extend(nodes)
    return copy


def has_schema_function(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def schema_function(
    node: onnx.NodeProto, data: Sequence[Any], opsets: Mapping[str, int]
) -> onnx.FunctionProto | None:
    """The body that the ONNX standard defines for the node's operator, if it does."""
    version = opsets.get(node.domain, 1)
    if not has_schema_function(node, opsets):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        body = schema.get_function_with_opset_version(
            max(versions or schema.function_opset_versions)
        )
        return _with_defaults(onnx.FunctionProto.FromString(body), schema)
    versions = schema.context_dependent_function_opset_versions
    chosen = max([v for v in versions if v <= version] or versions)
    body = schema.get_context_dependent_function_with_opset_version(
        chosen, node.SerializeToString(), [_type(item).SerializeToString() for item in data]
    )
    function = onnx.FunctionProto.FromString(body)
    return _with_defaults(function, schema) if function.node else None


def _with_defaults(function: onnx.FunctionProto, schema: Any) -> onnx.FunctionProto:
    """The function with the defaults that the operator's schema gives its attributes."""
    for attribute in schema.attributes.values():
        if attribute.default_value.name:
            function.attribute_proto.append(attribute.default_value)
    return function


def _type(item: Any) -> onnx.TypeProto:
    from compiler.frontend.node import np_dtype

    if item is None:
        return onnx.TypeProto()
    if isinstance(item, list):
        raise ConversionError("sequences are not supported here")
    element = helper.np_dtype_to_tensor_dtype(np_dtype(dtype_of(item)))
    return helper.make_tensor_type_proto(element, shape_of(item))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _run_subgraph(
    importer: GraphImporter,
    graph: onnx.GraphProto,
    scope: Scope,
    arguments: Sequence[Value],
    opsets: Mapping[str, int],
) -> list[Value]:
    """Results of ``graph`` inside ``scope``, its formal inputs bound to ``arguments``."""
    from compiler.frontend.graph import Value
    from compiler.frontend.tensors import to_numpy

    inner: Scope = dict(scope)
    inner.update({t.name: Value(to_numpy(t)) for t in graph.initializer})
    inner.update(zip((value.name for value in graph.input), arguments, strict=False))
    importer.run(graph.node, inner, opsets)
    return [inner[output.name] for output in graph.output]


def _if(
    importer: GraphImporter, node: onnx.NodeProto, scope: Scope, opsets: Mapping[str, int]
) -> list[Any]:
    condition = scope[node.input[0]].data
    branches = _attributes(node)
    if isinstance(condition, np.ndarray):
        branch = branches["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
        return [value.data for value in _run_subgraph(importer, branch, scope, (), opsets)]
    # ONNX nodes have no side effects: with equal types both branches can run, and one be chosen.
    chosen = []
    taken = _run_subgraph(importer, branches["then_branch"], scope, (), opsets)
    other = _run_subgraph(importer, branches["else_branch"], scope, (), opsets)
    for left, right in zip(taken, other, strict=True):
        if isinstance(left.data, list) or isinstance(right.data, list):
            raise OperandNotConstantError(0, "a condition over sequences")
        if shape_of(left.data) != shape_of(right.data) or dtype_of(left.data) != dtype_of(
            right.data
        ):
            raise OperandNotConstantError(0, "a condition over branches of different shapes")
        flag = importer.builder.emit(relax.op.reshape(condition, ()))
        chosen.append(
            relax.op.where(flag, importer.as_expr(left.data), importer.as_expr(right.data))
        )
    return chosen


def _loop(
    importer: GraphImporter, node: onnx.NodeProto, scope: Scope, opsets: Mapping[str, int]
) -> list[Any]:
    from compiler.frontend.graph import Value

    body = _attributes(node)["body"]
    trips = scope[node.input[0]] if node.input[0] else None
    condition = scope[node.input[1]] if len(node.input) > 1 and node.input[1] else None
    if trips is not None and not isinstance(trips.data, np.ndarray):
        raise OperandNotConstantError(0, "the trip count of a loop")
    limit = int(trips.data.reshape(-1)[0]) if trips is not None else limits.MAX_LOOP_TRIPS + 1
    state = [scope[name] if name else Value(None) for name in node.input[2:]]
    scanned: list[list[Any]] = [[] for _ in node.output[len(state) :]]
    keep = condition if condition is not None else Value(np.asarray(True))
    trip = 0
    while trip < limit:
        if not isinstance(keep.data, np.ndarray):
            raise OperandNotConstantError(1, "the condition of a loop")
        if not bool(keep.data.reshape(-1)[0]):
            break
        if trip >= limits.MAX_LOOP_TRIPS:
            raise ConversionError(
                f"a loop of more than {limits.MAX_LOOP_TRIPS} trips cannot be unrolled",
                "bind a shorter sequence with --shape",
            )
        arguments = [Value(np.asarray(trip, np.int64)), keep, *state]
        keep, *results = _run_subgraph(importer, body, scope, arguments, opsets)
        state = results[: len(state)]
        for collected, value in zip(scanned, results[len(state) :], strict=True):
            collected.append(value.data)
        trip += 1
    return [value.data for value in state] + [
        _stack(importer, collected, 0, body.output[1 + len(state) + index])
        for index, collected in enumerate(scanned)
    ]


def _stack(
    importer: GraphImporter, items: list[Any], axis: int, output: onnx.ValueInfoProto
) -> Any:
    """The scan output of a loop: the items of all trips along a new ``axis``."""
    if not items:
        tensor = output.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        return np.zeros([0, *dims], helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if all(isinstance(item, np.ndarray) for item in items):
        return np.stack(items, axis)
    parts = [
        importer.builder.emit(relax.op.expand_dims(importer.as_expr(item), axis)) for item in items
    ]
    return relax.op.concat(parts, axis) if len(parts) > 1 else parts[0]


def _scan(
    importer: GraphImporter, node: onnx.NodeProto, scope: Scope, opsets: Mapping[str, int]
) -> list[Any]:
    from compiler.frontend.graph import Value

    if opsets.get("", 1) < 9:
        raise ConversionError("Scan of opset 8 is not supported", "export with a newer opset")
    attributes = _attributes(node)
    body, count = attributes["body"], attributes["num_scan_inputs"]
    states = len(node.input) - count
    outputs = len(node.output) - states
    axes = attributes.get("scan_input_axes", [0] * count)
    reverse = attributes.get("scan_input_directions", [0] * count)
    out_axes = attributes.get("scan_output_axes", [0] * outputs)
    out_reverse = attributes.get("scan_output_directions", [0] * outputs)
    state = [scope[name] for name in node.input[:states]]
    sequences = [scope[name] for name in node.input[states:]]
    axes = [axis % len(shape_of(value.data)) for axis, value in zip(axes, sequences, strict=True)]
    trips = shape_of(sequences[0].data)[axes[0]]
    if trips > limits.MAX_LOOP_TRIPS:
        raise ConversionError(f"a scan of {trips} steps cannot be unrolled", "bind a shorter shape")
    collected: list[list[Any]] = [[] for _ in range(outputs)]
    for trip in range(trips):
        steps = [
            Value(_slice(importer, value.data, axis, trips - 1 - trip if back else trip))
            for value, axis, back in zip(sequences, axes, reverse, strict=True)
        ]
        results = _run_subgraph(importer, body, scope, [*state, *steps], opsets)
        state = results[:states]
        for items, value in zip(collected, results[states:], strict=True):
            items.append(value.data)
    stacked = []
    for index, items in enumerate(collected):
        items = items[::-1] if out_reverse[index] else items
        axis = out_axes[index]
        axis = axis + len(shape_of(items[0])) + 1 if axis < 0 else axis
        stacked.append(_stack(importer, items, axis, body.output[states + index]))
    return [value.data for value in state] + stacked


def _slice(importer: GraphImporter, data: Any, axis: int, index: int) -> Any:
    if isinstance(data, np.ndarray):
        return np.take(data, index, axis)
    part = relax.op.strided_slice(data, [axis], [index], [index + 1])
    return importer.builder.emit(relax.op.squeeze(importer.builder.emit(part), [axis]))


ControlFlow = Callable[["GraphImporter", onnx.NodeProto, "Scope", Mapping[str, int]], Sequence[Any]]
CONTROL_FLOW: dict[tuple[str, str], ControlFlow] = {
    ("", "If"): _if,
    ("", "Loop"): _loop,
    ("", "Scan"): _scan,
}
