"""Operators of quantised tensors (QOperator format) as dequantize -> float operator -> quantize.

Which of these become integer arithmetic again is not for the importer to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.quant import dequantized, quantized
from compiler.frontend.converters.registry import REGISTRY, converter
from compiler.frontend.node import ConversionError, Node

_OPSET = 20  # whose forms the float operators take here


@dataclass(frozen=True)
class _Form:
    """How a quantised operator names its operands.

    Args:
        float_op: the operator on real numbers.
        operands: where each quantised input is; its scale and zero point follow.
        output: where the output's scale is; its zero point follows.
    """

    float_op: str
    operands: tuple[int, ...]
    output: int


_MICROSOFT = {
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", (0,), 3),
    "QLinearAveragePool": _Form("AveragePool", (0,), 3),
    "QLinearSigmoid": _Form("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": _Form("LeakyRelu", (0,), 3),
    "QLinearReduceMean": _Form("ReduceMean", (0,), 3),
    "QLinearSoftmax": _Form("Softmax", (0,), 3),
}


@converter(*_MICROSOFT, domain="com.microsoft")
def qlinear(node: Node) -> relax.Expr:
    form = _MICROSOFT[node.op]
    opset = node.attr("opset", _OPSET)  # QLinearSoftmax says whose softmax it means
    inputs = [dequantized(node, i, i + 1, i + 2, 0) for i in form.operands]
    return _requantized(node, _float(node, form.float_op, inputs, opset), form.output)


def _float(node: Node, op: str, inputs: Sequence[Any], opset: int = _OPSET) -> relax.Expr:
    """The result of a standard operator with the node's attributes."""
    if node.attr("channels_last", 0):
        raise ConversionError("channels as last axis are not supported")
    view = replace(node, op=op, domain="", opset=opset, inputs=list(inputs))
    result = REGISTRY[("", op)](view)
    return node.emit(result[0] if isinstance(result, list) else result)


def _requantized(node: Node, x: relax.Expr, scale: int, like: int = 0) -> relax.Expr:
    """float ``x`` as integers of the scale at input ``scale`` and the zero point behind it."""
    for index in (scale, scale + 1):
        if node.has(index) and math.prod(node.shape(index)) != 1:
            raise ConversionError(f"input {index} must be one number")
    dtype = node.dtype(scale + 1) if node.has(scale + 1) else node.dtype(like)
    return quantized(node, x, like, scale, scale + 1, 0, dtype)


def _bias(node: Node, index: int, factors: tuple[int, int], alpha: float = 1.0) -> Any:
    """Real values of an int32 bias, stored with alpha times the product of the operands' scales."""
    if all(node.is_const(i) for i in (index, *factors)):
        first, second = (node.inputs[i].reshape(-1).astype(np.float64) for i in factors)
        return (node.inputs[index] * first * second * alpha).astype(np.float32)
    first, second = (relax.op.reshape(node[i], (math.prod(node.shape(i)),)) for i in factors)
    scale = node.emit(relax.op.multiply(node.emit(first), node.emit(second)))
    if alpha != 1.0:
        scale = node.emit(relax.op.multiply(scale, node.scalar(alpha, "float32")))
    return node.emit(relax.op.multiply(cast(node[index], "float32"), cast(scale, "float32")))


@converter("QLinearConv")
def qlinear_conv(node: Node) -> relax.Expr:
    inputs = [dequantized(node, 0, 1, 2, 0), dequantized(node, 3, 4, 5, 0)]
    if node.has(8):
        inputs.append(_bias(node, 8, (1, 4)))
    return _requantized(node, _float(node, "Conv", inputs), 6)


@converter("QLinearMatMul")
@converter("QLinearMatMul", domain="com.microsoft")
def qlinear_matmul(node: Node) -> relax.Expr:
    """Scales may belong to the rows of the left operand and the columns of the right one."""
    left = dequantized(node, 0, 1, 2, max(node.rank(0) - 2, 0))
    right = dequantized(node, 3, 4, 5, node.rank(3) - 1)
    return _requantized(node, _float(node, "MatMul", [left, right]), 6)


@converter("QGemm", domain="com.microsoft")
def qgemm(node: Node) -> relax.Expr:
    columns = 0 if node.attr("transB", 0) else 1
    inputs = [dequantized(node, 0, 1, 2, 0), dequantized(node, 3, 4, 5, columns)]
    if node.has(6):
        inputs.append(_bias(node, 6, (1, 4), node.attr("alpha", 1.0)))
    result = _float(node, "Gemm", inputs)
    return _requantized(node, result, 7) if node.has(7) else result


@converter("QLinearConcat", domain="com.microsoft")
def qlinear_concat(node: Node) -> relax.Expr:
    parts = range(2, len(node.inputs), 3)
    inputs = [dequantized(node, i, i + 1, i + 2, 0) for i in parts]
    return _requantized(node, _float(node, "Concat", inputs), 0, like=2)


@converter("QLinearWhere", domain="com.microsoft")
def qlinear_where(node: Node) -> relax.Expr:
    inputs = [node[0], dequantized(node, 1, 2, 3, 0), dequantized(node, 4, 5, 6, 0)]
    return _requantized(node, _float(node, "Where", inputs), 7, like=1)
