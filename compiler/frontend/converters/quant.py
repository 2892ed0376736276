"""Quantised operators as exact integer and float arithmetic of Relax."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.conv import convolve
from compiler.frontend.converters.index import take
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, shape_of

_RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


def _along(node: Node, index: int, like: int, axis: int) -> relax.Expr | None:
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


@converter("DequantizeLinear")
@converter("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(node: Node) -> relax.Expr:
    dtype = node.dtype(1)
    axis = _axis(node)
    x = node.emit(relax.op.astype(node[0], "int32" if node.dtype(0) != "uint32" else "int64"))
    zero = _along(node, 2, 0, axis)
    if zero is not None and not (node.is_const(2) and not node.inputs[2].any()):
        x = relax.op.subtract(x, cast(zero, str(x.ty.dtype)))
    scale = _along(node, 1, 0, axis)
    return relax.op.multiply(relax.op.astype(node.emit(x), dtype), scale)


def _axis(node: Node) -> int:
    rank = node.rank(0)
    axis = node.attr("axis", 1)
    return axis + rank if axis < 0 else axis


def _saturated(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    """float ``x``, already an integer in value, into ``dtype`` with saturation."""
    if dtype not in _RANGES:
        raise ConversionError(f"quantization to {dtype} is not supported")
    low, high = _RANGES[dtype]
    return relax.op.astype(relax.op.clip(x, float(low), float(high)), dtype)


@converter("QuantizeLinear")
@converter("QuantizeLinear", domain="com.microsoft")
def quantize_linear(node: Node) -> relax.Expr:
    """saturate(round_half_even(x / scale) + zero point)."""
    from onnx.helper import tensor_dtype_to_np_dtype

    wanted = node.attr("output_dtype", 0)
    dtype = str(tensor_dtype_to_np_dtype(wanted)) if wanted else "uint8"
    dtype = node.dtype(2) if node.has(2) else dtype
    axis, work = _axis(node), "float32"
    x = cast(node[0], work)
    scale = cast(_along(node, 1, 0, axis), work)
    scaled = relax.op.round(relax.op.divide(x, scale))
    zero = _along(node, 2, 0, axis)
    if zero is not None and not (node.is_const(2) and not node.inputs[2].any()):
        scaled = relax.op.add(scaled, cast(zero, work))
    return _saturated(node, node.emit(scaled), dtype)


@converter("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node) -> list[relax.Expr]:
    """Range of the tensor, widened to hold zero, over 255 steps of uint8."""
    x = node[0]
    zero, steps = node.scalar(0, "float32"), node.scalar(255, "float32")
    high = node.emit(relax.op.maximum(relax.op.max(x), zero))
    low = node.emit(relax.op.minimum(relax.op.min(x), zero))
    span = node.emit(relax.op.divide(relax.op.subtract(high, low), steps))
    # of an all-zero tensor the scale would be 0
    flat = relax.op.equal(span, zero)
    scale = node.emit(relax.op.where(flat, node.scalar(1, "float32"), span))
    origin = relax.op.round(relax.op.divide(relax.op.negative(low), scale))
    origin = node.emit(relax.op.clip(origin, 0.0, 255.0))
    shifted = relax.op.add(relax.op.round(relax.op.divide(x, scale)), origin)
    result = _saturated(node, node.emit(shifted), "uint8")
    return [result, span, relax.op.astype(origin, "uint8")]


def _centred(node: Node, index: int, zero_index: int, axis: int | None) -> relax.Expr:
    """Integer input minus zero point, in int32; of constants computed now."""
    zero_known = not node.has(zero_index) or node.is_const(zero_index)
    if node.is_const(index) and zero_known:
        value = node.inputs[index].astype(np.int32)
        if node.has(zero_index):
            zero = node.inputs[zero_index].astype(np.int32)
            value = value - _shaped(zero, value.shape, axis)
        return node.make_constant(value)
    x = relax.op.astype(node[index], "int32")
    if not node.has(zero_index) or (
        node.is_const(zero_index) and not node.inputs[zero_index].any()
    ):
        return node.emit(x)
    own, dims = node.shape(zero_index), node.shape(index)
    if node.is_const(zero_index):
        zero = node.make_constant(_shaped(node.inputs[zero_index].astype(np.int32), dims, axis))
    else:
        shape = _zero_shape(own, dims, axis)
        zero = relax.op.astype(relax.op.reshape(node[zero_index], shape), "int32")
    return node.emit(relax.op.subtract(x, zero))


def _zero_shape(own: tuple[int, ...], dims: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    if math.prod(own) == 1:
        return ()
    if len(own) > 1 or axis is None:
        return own
    return tuple(own[0] if a == axis % len(dims) else 1 for a in range(len(dims)))


def _shaped(zero: np.ndarray, dims: tuple[int, ...], axis: int | None) -> np.ndarray:
    return zero.reshape(_zero_shape(zero.shape, dims, axis))


@converter("MatMulInteger")
def matmul_integer(node: Node) -> relax.Expr:
    left = _centred(node, 0, 2, node.rank(0) - 2 if node.rank(0) > 1 else None)
    right = _centred(node, 1, 3, node.rank(1) - 1)
    return relax.op.matmul(left, right, out_dtype="int32")


@converter("ConvInteger")
def conv_integer(node: Node) -> relax.Expr:
    x = _centred(node, 0, 2, None)
    weight = _centred(node, 1, 3, 0)
    return convolve(node, x, weight, shape_of(node.inputs[1]), out_dtype="int32")


def _requantized(
    node: Node, total: relax.Expr, scale: relax.Expr, scale_at: int, zero_at: int
) -> relax.Expr:
    """int32 ``total`` of quantum ``scale`` as a tensor of the output's scale and zero point."""
    dtype = node.dtype(zero_at)
    ratio = relax.op.divide(scale, cast(_scalar(node, scale_at), "float32"))
    real = relax.op.multiply(relax.op.astype(total, "float32"), ratio)
    rounded = relax.op.round(node.emit(real))
    zero = relax.op.astype(_scalar(node, zero_at), "float32")
    return _saturated(node, node.emit(relax.op.add(rounded, zero)), dtype)


def _scalar(node: Node, index: int) -> relax.Expr:
    if math.prod(node.shape(index)) != 1:
        raise ConversionError(f"input {index} must be one number")
    if node.is_const(index):
        return node.make_constant(node.inputs[index].reshape(()))
    return node.emit(relax.op.reshape(node[index], ()))


@converter("QLinearMatMul")
def qlinear_matmul(node: Node) -> relax.Expr:
    left = _centred(node, 0, 2, node.rank(0) - 2)
    right = _centred(node, 3, 5, node.rank(3) - 1)
    total = node.emit(relax.op.matmul(left, right, out_dtype="int32"))
    rows = _along(node, 1, 0, node.rank(0) - 2)
    columns = _along(node, 4, 3, node.rank(3) - 1)
    scale = relax.op.multiply(cast(rows, "float32"), cast(columns, "float32"))
    return _requantized(node, total, node.emit(scale), 6, 7)


@converter("QLinearConv")
def qlinear_conv(node: Node) -> relax.Expr:
    x = _centred(node, 0, 2, None)
    weight = _centred(node, 3, 5, 0)
    total = node.emit(convolve(node, x, weight, node.shape(3), out_dtype="int32"))
    channels = (1, -1, *[1] * (node.rank(0) - 2))
    if node.has(8):
        shape = tuple(node.shape(8)[0] if n == -1 else n for n in channels)
        bias = relax.op.reshape(relax.op.astype(node[8], "int32"), shape)
        total = node.emit(relax.op.add(total, bias))
    scale = _scalar(node, 1)
    if math.prod(node.shape(4)) == 1:
        scale = relax.op.multiply(scale, _scalar(node, 4))
    else:
        shape = tuple(node.shape(4)[0] if n == -1 else n for n in channels)
        scale = relax.op.multiply(scale, relax.op.reshape(node[4], shape))
    return _requantized(node, total, node.emit(scale), 6, 7)
