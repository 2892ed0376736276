"""What an ONNX model consists of, without importing it into the compiler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.frontend.load import load_model
from compiler.frontend.tensors import element_bits

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str, ...]

# Multiply-accumulates from (shapes of the node's inputs, shape of its output); the index of the
# weights differs between the float and the quantized forms.
_CONV = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MATMUL = ("MatMul", "MatMulInteger", "QLinearMatMul")


def summarize(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Inputs, outputs, operator counts, parameters and multiply-accumulates of a model.

    Args:
        shapes: extents of inputs whose shape the file leaves open, by input name.

    Returns:
        A dictionary fit for JSON; "macs" counts convolutions and matrix products, and is None
        where their shapes depend on dimensions that are open.

    Raises:
        EdgeccError: the file can't be read or is refused.
    """
    loaded = load_model(path)
    graph = loaded.proto.graph
    _bind(path, graph, shapes or {})
    nodes = list(_nodes(graph))
    constants = [*graph.initializer, *_constant_tensors(nodes)]
    weights = {tensor.name for tensor in graph.initializer}
    return {
        "model": str(path),
        "name": loaded.name,
        "sha256": loaded.sha256,
        "opsets": {entry.domain: entry.version for entry in loaded.proto.opset_import},
        "inputs": [_tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in graph.output],
        "operators": dict(Counter(_name(node) for node in nodes)),
        "parameters": sum(math.prod(tensor.dims) for tensor in constants),
        "weights_bytes": sum(
            math.prod(tensor.dims) * element_bits(tensor.data_type) // 8 for tensor in constants
        ),
        "macs": _macs(loaded.proto),
    }


def _bind(path: Path, graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    inputs = {value.name: value.type.tensor_type.shape for value in graph.input}
    symbols: dict[str, int] = {}
    for name, extents in shapes.items():
        if name not in inputs:
            raise EdgeccError(
                f"{path}: --shape {name}: the model has no such input",
                "inputs: " + ", ".join(inputs),
            )
        dims = inputs[name].dim
        if len(dims) != len(extents):
            raise EdgeccError(f"{path}: --shape {name}: the input has {len(dims)} dimensions")
        symbols |= {
            dim.dim_param: extent
            for dim, extent in zip(dims, extents, strict=True)
            if dim.dim_param
        }
        for dim, extent in zip(dims, extents, strict=True):
            dim.dim_value = extent
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _constant_tensors(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        if node.op_type == "Constant":
            yield from (item.t for item in node.attribute if item.name == "value")


def _name(node: onnx.NodeProto) -> str:
    own = node.domain in ("", "ai.onnx")
    return node.op_type if own else f"{node.domain}.{node.op_type}"


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    shape: Shape = ("unknown rank",)
    if tensor.HasField("shape"):
        shape = _extents(tensor.shape)
    return {"name": value.name, "dtype": dtype, "shape": list(shape)}


def _extents(shape: onnx.TensorShapeProto) -> Shape:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in shape.dim
    )


def _macs(model: onnx.ModelProto) -> int | None:
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a graph that onnx can't follow still has inputs and operators to show
        return None
    graph = model.graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes.setdefault(value.name, _extents(value.type.tensor_type.shape))
    total = 0
    for node in graph.node:
        if node.op_type not in (*_CONV, *_MATMUL, "ConvTranspose", "Gemm"):
            continue
        inputs = [shapes.get(name, ("?",)) for name in node.input]
        factors = _factors(node, inputs, shapes.get(node.output[0], ("?",)))
        known = [factor for factor in factors if isinstance(factor, int)]
        if len(known) < len(factors):
            return None
        total += math.prod(known)
    return total


def _factors(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> Shape:
    """Extents whose product is the number of multiply-accumulates."""
    if node.op_type in _CONV:  # every output point sums over the weights' C/group x kernel
        return (*output, *inputs[_CONV[node.op_type]][1:])
    if node.op_type == "ConvTranspose":  # every input point spreads over M/group x kernel
        return (*inputs[0], *inputs[1][1:])
    if node.op_type == "Gemm":
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return (*output, inputs[0][0 if transposed else -1])
    return (*output, inputs[0][-1])
