"""QuantizeLinear and DequantizeLinear.

With constant scales they become Relax's quantize and dequantize, the interchange form of
``compiler/quantize/qdq.py``; whatever that has no place for becomes plain arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.index import take
from compiler.frontend.converters.registry import converter
from compiler.frontend.integers import axis_of, quantum_at, stored_dtype
from compiler.frontend.node import ConversionError, Node, dtype_of
from compiler.quantize.qdq import emit_dequantize, emit_quantize

_RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


def along(node: Node, index: int, like: int, axis: int) -> relax.Expr | None:
    """Scale or zero point ``index`` shaped to broadcast along ``axis`` of input ``like``."""
    if not node.has(index):
        return None
    dims, own = node.shape(like), node.shape(index)
    if math.prod(own) == 1:
        shape: tuple[int, ...] = ()
    elif len(own) == 1:
        shape = tuple(own[0] if a == axis else 1 for a in range(len(dims)))
    else:
        return _blocked(node, index, dims)
    if node.is_const(index):
        return node.make_constant(node.inputs[index].reshape(shape))
    return node.emit(relax.op.reshape(node[index], shape))


def _blocked(node: Node, index: int, dims: tuple[int, ...]) -> relax.Expr:
    """Blocked quantisation: every element of scale or zero point serves a block of elements."""
    x, own = node[index], node.shape(index)
    for axis, (count, extent) in enumerate(zip(own, dims, strict=True)):
        if count != extent:
            block = node.attr("block_size") or -(-extent // count)
            positions = (np.arange(extent) // block).astype(np.int64)
            x = node.te(take, x, positions, axis, name="take")
    return x


def saturated(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    """float ``x``, already an integer in value, into ``dtype`` with saturation."""
    if dtype not in _RANGES:
        raise ConversionError(f"quantization to {dtype} is not supported")
    low, high = _RANGES[dtype]
    return relax.op.astype(relax.op.clip(x, float(low), float(high)), dtype)


def dequantized(node: Node, index: int, scale: int, zero: int, axis: int) -> Any:
    """Real values of the integers of input ``index``: an array of a constant, else an expression.

    They are of float32, or float64 where the scales are.

    Args:
        scale, zero: inputs with scales and zero points, the latter maybe left out.
        axis: which axis of the input they belong to where they are vectors.
    """
    quantum = quantum_at(node, index, scale, zero, node.dtype(index), axis)
    if quantum is None:
        return node.emit(_shifted_and_scaled(node, index, scale, zero, axis))
    if node.is_const(index):
        return node.integers.dequantize(node.inputs[index], quantum)
    return emit_dequantize(node.builder, node[index], quantum)


def _shifted_and_scaled(node: Node, index: int, scale: int, zero: int, axis: int) -> relax.Expr:
    wide = "int64" if node.dtype(index) == "uint32" else "int32"
    x = node.emit(relax.op.astype(node[index], wide))
    origin = along(node, zero, index, axis)
    if origin is not None and not (node.is_const(zero) and not node.inputs[zero].any()):
        x = relax.op.subtract(x, cast(origin, str(x.ty.dtype)))
    work = "float64" if node.dtype(scale) == "float64" else "float32"
    factor = cast(along(node, scale, index, axis), work)
    return relax.op.multiply(relax.op.astype(node.emit(x), work), factor)


def quantized(
    node: Node, x: relax.Expr, like: int, scale: int, zero: int, axis: int, dtype: str
) -> relax.Expr:
    """saturate(round_half_even(x / scale) + zero point).

    Args:
        x: float32.
        like: an input of the shape of x, where scales and zero points are vectors.
    """
    quantum = quantum_at(node, like, scale, zero, dtype, axis)
    if quantum is not None and dtype in _RANGES:
        return emit_quantize(node.builder, x, quantum)
    divisor = cast(along(node, scale, like, axis), "float32")
    scaled = relax.op.round(relax.op.divide(x, divisor))
    origin = along(node, zero, like, axis)
    if origin is not None and not (node.is_const(zero) and not node.inputs[zero].any()):
        scaled = relax.op.add(scaled, cast(origin, "float32"))
    return saturated(node, node.emit(scaled), dtype)


@converter("DequantizeLinear")
@converter("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(node: Node) -> relax.Expr:
    from onnx.helper import tensor_dtype_to_np_dtype

    result = dequantized(node, 0, 1, 2, axis_of(node))
    wanted = node.attr("output_dtype", 0)
    dtype = str(tensor_dtype_to_np_dtype(wanted)) if wanted else node.dtype(1)
    return result if dtype_of(result) == dtype else relax.op.astype(result, dtype)


@converter("QuantizeLinear")
@converter("QuantizeLinear", domain="com.microsoft")
def quantize_linear(node: Node) -> relax.Expr:
    x = node.emit(cast(node[0], "float32")) if node.dtype(0) != "float32" else node[0]
    return quantized(node, x, 0, 1, 2, axis_of(node), stored_dtype(node))
