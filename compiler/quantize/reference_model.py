"""A quantised ONNX model as ONNX Runtime computes it without saturation.

Its x86 kernels for uint8 times int8 add pairs of products in 16 bits, which overflows where there
is no VNNI. Those for uint8 times uint8 are exact: int8 weights become uint8, value and zero point
shifted by 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_INTEGER_OPERATORS = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    ]
)


# MatMulNBits' accuracy_level: 0 unset, 1 float32, 2 float16, 3 bfloat16, 4 int8.
_FLOAT32_LEVEL = 1


@dataclass(frozen=True)
class _Operands:
    """Where a product has its data's zero point (None: always of uint8), weights, and theirs."""

    data_zero: int | None
    weight: int
    weight_zero: int


_PRODUCTS = {
    "MatMulInteger": _Operands(2, 1, 3),
    "QLinearMatMul": _Operands(2, 3, 5),
    "QLinearConv": _Operands(2, 3, 5),
    "QGemm": _Operands(2, 3, 5),
    "MatMulIntegerToFloat": _Operands(4, 1, 5),
    "DynamicQuantizeMatMul": _Operands(None, 1, 3),
}


def is_quantized(model: Path) -> bool:
    """Whether a model file has operators that quantise, or compute with quantised tensors."""
    graph = onnx.load(str(model), load_external_data=False).graph
    return any(n.op_type in _INTEGER_OPERATORS or "QLinear" in n.op_type for n in graph.node)


def computes_coarsely(model: Path) -> bool:
    """Whether a model file lets MatMulNBits round activations to 8 bits."""
    graph = onnx.load(str(model), load_external_data=False).graph
    return any(_accuracy_levels(node) for node in graph.node)


def _accuracy_levels(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    if node.op_type != "MatMulNBits":
        return []
    return [a for a in node.attribute if a.name == "accuracy_level" and a.i > _FLOAT32_LEVEL]


def exact_model(model: Path) -> bytes:
    """The serialised model with weights for which ONNX Runtime's kernels are exact."""
    proto = onnx.load(str(model))
    constants = {t.name: t for t in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        for level in _accuracy_levels(node):
            level.i = _FLOAT32_LEVEL
        operands = _PRODUCTS.get(node.op_type)
        if operands is not None and _is_of_uint8(node, operands.data_zero, constants, makers):
            _shift(proto.graph, node, operands, constants)
    return proto.SerializeToString()


def _is_of_uint8(
    node: onnx.NodeProto,
    data_zero: int | None,
    constants: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
) -> bool:
    if data_zero is None:
        return True
    name = node.input[data_zero] if len(node.input) > data_zero else ""
    if name in constants:
        return constants[name].data_type == onnx.TensorProto.UINT8
    return name in makers and makers[name].op_type == "DynamicQuantizeLinear"


def _shift(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    operands: _Operands,
    constants: dict[str, onnx.TensorProto],
) -> None:
    """Replaces the constant weights of int8 of a node, and their zero point."""
    weight = constants.get(node.input[operands.weight])
    if weight is None or weight.data_type != onnx.TensorProto.INT8:
        return
    while len(node.input) <= operands.weight_zero:
        node.input.append("")
    zero = node.input[operands.weight_zero]
    if zero and zero not in constants:
        return
    zeros = numpy_helper.to_array(constants[zero]) if zero else np.zeros((), np.int8)
    values = {operands.weight: numpy_helper.to_array(weight), operands.weight_zero: zeros}
    for index, value in values.items():
        name = f"{weight.name}/{zero}/{index}/uint8"
        if name not in constants:
            shifted = (value.astype(np.int16) + 128).astype(np.uint8)
            constants[name] = numpy_helper.from_array(shifted, name)
            graph.initializer.append(constants[name])
        node.input[index] = name
