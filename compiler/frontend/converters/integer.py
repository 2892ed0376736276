"""Products of integers, as dynamic quantisation computes them.

The operands stay as narrow as they are. Their zero points are taken out of the product,

    sum (a - za) (b - zb)  =  sum a b  -  za sum (b - zb)  -  zb sum a,

so that what is left is a product of 8-bit integers summed up in int32; of constant weights the
second sum is known at compile time, and symmetric ones do not have the third.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tvm import relax

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.conv import convolve
from compiler.frontend.converters.pad import filled
from compiler.frontend.converters.quant import saturated
from compiler.frontend.converters.registry import converter
from compiler.frontend.converters.window import window
from compiler.frontend.node import ConversionError, Node, dtype_of, shape_of

_NARROW = ("int8", "uint8")


def _int32(x: relax.Expr) -> relax.Expr:
    return cast(x, "int32")


def _zero(node: Node, index: int, shape: Sequence[int]) -> np.ndarray | relax.Expr | None:
    """A zero point in int32: an array, an expression, or None where it is zero.

    Args:
        shape: what a vector of zero points is reshaped to.
    """
    if not node.has(index) or (node.is_const(index) and not node.inputs[index].any()):
        return None
    own = node.shape(index)
    wanted = () if math.prod(own) == 1 else tuple(shape) if len(own) == 1 else own
    if node.is_const(index):
        return node.inputs[index].astype(np.int32).reshape(wanted)
    return node.emit(_int32(relax.op.reshape(node[index], wanted)))


def _expr(node: Node, value: np.ndarray | relax.Expr) -> relax.Expr:
    return node.make_constant(value) if isinstance(value, np.ndarray) else value


Factor = tuple[np.ndarray | relax.Expr, np.ndarray | relax.Expr | None]


def _signed(node: Node, index: int, zero: np.ndarray | relax.Expr | None) -> Factor:
    """A right operand and its zero point, with int8 in the place of uint8.

    A constant loses its zero point where the difference fits.
    """
    if node.dtype(index) not in _NARROW:
        raise ConversionError(f"factors of {node.dtype(index)} are not supported")
    known_zero = zero is None or isinstance(zero, np.ndarray)
    if node.is_const(index) and known_zero:
        value = node.inputs[index].astype(np.int32)
        centred = value - (0 if zero is None else zero)
        if centred.size == 0 or (centred.min() >= -128 and centred.max() <= 127):
            return centred.astype(np.int8), None
    if node.dtype(index) == "int8":
        return node.inputs[index], zero
    origin: np.ndarray | relax.Expr = np.asarray(-128, np.int32)
    if isinstance(zero, np.ndarray):
        origin = np.asarray(zero - 128, np.int32)  # of scalars NumPy makes no arrays
    elif zero is not None:
        origin = node.emit(relax.op.subtract(zero, node.scalar(128, "int32")))
    if node.is_const(index):
        return (node.inputs[index].astype(np.int16) - 128).astype(np.int8), origin
    wide = relax.op.subtract(relax.op.astype(node[index], "int16"), node.scalar(128, "int16"))
    return node.emit(relax.op.astype(node.emit(wide), "int8")), origin


def _sums(node: Node, factor: Factor, axis: int) -> np.ndarray | relax.Expr:
    """sum (b - zb) along an axis that is kept, in int32."""
    value, zero = factor
    extent = np.asarray(shape_of(value)[axis], np.int32)
    if isinstance(value, np.ndarray):
        total: np.ndarray | relax.Expr = value.sum(axis, np.int32, keepdims=True)
    else:
        total = node.emit(relax.op.sum(_int32(value), [axis], keepdims=True))
    if zero is None:
        return total
    if isinstance(zero, np.ndarray):
        shift: np.ndarray | relax.Expr = np.asarray(extent * zero, np.int32)
    else:
        shift = node.emit(relax.op.multiply(zero, node.make_constant(extent)))
    if isinstance(total, np.ndarray) and isinstance(shift, np.ndarray):
        return total - shift
    return node.emit(relax.op.subtract(_expr(node, total), _expr(node, shift)))


def _product(node: Node, left: tuple[int, int], right: tuple[int, int]) -> relax.Expr:
    """int32 product of the matrices at two inputs, whose zero points are at two others.

    One zero point serves a matrix, a row of the left one, or a column of the right one.
    """
    if node.dtype(left[0]) not in _NARROW:
        raise ConversionError(f"factors of {node.dtype(left[0])} are not supported")
    ranks = node.rank(left[0]), node.rank(right[0])
    if min(ranks) < 2:
        return _vector_product(node, left, right)
    a, za = node[left[0]], _zero(node, left[1], (-1, 1))
    factor = _signed(node, right[0], _zero(node, right[1], (-1,)))
    b, zb = factor
    total = node.emit(relax.op.matmul(a, _expr(node, b), out_dtype="int32"))
    if za is not None:
        sums = _expr(node, _sums(node, factor, -2))
        total = node.emit(relax.op.subtract(total, relax.op.multiply(_expr(node, za), sums)))
    if zb is not None:
        sums = node.emit(relax.op.sum(_int32(a), [-1], keepdims=True))
        total = node.emit(relax.op.subtract(total, relax.op.multiply(_expr(node, zb), sums)))
    return total


def _vector_product(node: Node, left: tuple[int, int], right: tuple[int, int]) -> relax.Expr:
    """A product where an operand is a vector, as one of matrices."""
    inputs = list(node.inputs)
    dims = [list(node.shape(i)) for i in (left[0], right[0])]
    shape = [*dims[0][:-1], *dims[1][:-2], *dims[1][-1:]] if len(dims[1]) > 1 else dims[0][:-1]
    if len(dims[0]) == 1:
        shape = [*dims[1][:-2], *dims[1][-1:]] if len(dims[1]) > 1 else []
    for index, vector in ((left[0], (1, -1)), (right[0], (-1, 1))):
        if node.rank(index) == 1:
            known = node.is_const(index)
            extent = node.shape(index)[0]
            wanted = tuple(extent if n == -1 else n for n in vector)
            value = inputs[index]
            inputs[index] = (
                value.reshape(wanted) if known else node.emit(relax.op.reshape(value, wanted))
            )
    total = _product(replace(node, inputs=inputs), left, right)
    return node.emit(relax.op.reshape(total, tuple(shape)))


@converter("MatMulInteger")
def matmul_integer(node: Node) -> relax.Expr:
    return _product(node, (0, 2), (1, 3))


@converter("ConvInteger")
def conv_integer(node: Node) -> relax.Expr:
    """Pads hold the zero point of the data, which stands for zero."""
    weight_shape = node.shape(1)
    za = _zero(node, 2, (-1,))
    w, zw = _signed(node, 1, _zero(node, 3, (-1, *[1] * (len(weight_shape) - 1))))
    if zw is not None:  # too rare for sums over windows
        wide = relax.op.subtract(_int32(_expr(node, w)), _expr(node, zw))
        w = node.emit(wide)
    if za is None:
        return convolve(node, node[0], _expr(node, w), weight_shape, out_dtype="int32")
    if shape_of(za):
        raise ConversionError("the zero point of the data must be one number")
    view = window(node, node.shape(0)[2:], list(weight_shape[2:]))
    widths = [0, 0, 0, 0]
    for before, after in zip(view.before, view.after, strict=True):
        widths += [before, after]
    x = node[0]
    if any(widths):
        x = filled(node, x, widths, node.emit(relax.op.astype(_expr(node, za), node.dtype(0))))
    attrs = {**node.attrs, "pads": [0] * (2 * len(view.before)), "auto_pad": "NOTSET"}
    unpadded = replace(node, inputs=[x, *node.inputs[1:]], attrs=attrs)
    total = convolve(unpadded, x, _expr(node, w), weight_shape, out_dtype="int32")
    channels = (1, weight_shape[0], *[1] * (len(weight_shape) - 2))
    if isinstance(w, np.ndarray):
        flat = w.reshape(weight_shape[0], -1).sum(1, np.int32)
        sums = node.make_constant(flat.reshape(channels))
    else:
        axes = list(range(1, len(weight_shape)))
        sums = node.emit(relax.op.reshape(node.emit(relax.op.sum(_int32(w), axes)), channels))
    shift = node.emit(relax.op.multiply(_expr(node, za), sums))
    return relax.op.subtract(node.emit(total), shift)


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
    result = saturated(node, node.emit(shifted), "uint8")
    return [node.emit(result), scale, node.emit(relax.op.astype(origin, "uint8"))]


@converter("MatMulIntegerToFloat", domain="com.microsoft")
def matmul_integer_to_float(node: Node) -> relax.Expr:
    return _scaled_product(node)


@converter("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_quantize_matmul(node: Node) -> relax.Expr:
    quantised, scale, zero = dynamic_quantize_linear(node)
    rest = [node.inputs[i] if node.has(i) else None for i in range(1, 5)]
    inputs = [quantised, rest[0], scale, rest[1], zero, rest[2], rest[3]]
    return _scaled_product(replace(node, inputs=inputs))


def _scaled_product(node: Node) -> relax.Expr:
    """(a b) * (scale of a * scale of b) + bias: inputs a, b, scales, zero points, bias."""
    total = node.emit(_product(node, (0, 4), (1, 5)))
    scales = []
    for index, vector in ((2, (-1, 1)), (3, (-1,))):
        own = node.shape(index)
        wanted = () if math.prod(own) == 1 else vector if len(own) == 1 else own
        wanted = tuple(own[0] if n == -1 else n for n in wanted)
        scales.append(node.emit(relax.op.reshape(node[index], wanted)))
    scale = node.emit(relax.op.multiply(*scales))
    result = node.emit(relax.op.multiply(node.emit(cast(total, dtype_of(scale))), scale))
    return relax.op.add(result, node[6]) if node.has(6) else result
