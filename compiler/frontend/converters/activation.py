"""Element-wise functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node

_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Abs": relax.op.abs,
    "Neg": relax.op.negative,
    "Floor": relax.op.floor,
    "Ceil": relax.op.ceil,
    "Sqrt": relax.op.sqrt,
    "Exp": relax.op.exp,
    "Log": relax.op.log,
    "Sin": relax.op.sin,
    "Cos": relax.op.cos,
    "Tan": relax.op.tan,
    "Sinh": relax.op.sinh,
    "Cosh": relax.op.cosh,
    "Tanh": relax.op.tanh,
    "Asin": relax.op.asin,
    "Acos": relax.op.acos,
    "Atan": relax.op.atan,
    "Asinh": relax.op.asinh,
    "Acosh": relax.op.acosh,
    "Atanh": relax.op.atanh,
    "Erf": relax.op.erf,
    "Sign": relax.op.sign,
    "Not": relax.op.logical_not,
    "BitwiseNot": relax.op.bitwise_not,
    "Sigmoid": relax.op.sigmoid,
    "Relu": relax.op.nn.relu,
    "IsNaN": relax.op.isnan,
}


@converter(*_UNARY)
def unary(node: Node) -> relax.Expr:
    return _UNARY[node.op](node[0])


@converter("Round")
def round_half_even(node: Node) -> relax.Expr:
    return relax.op.round(node[0])


@converter("Reciprocal")
def reciprocal(node: Node) -> relax.Expr:
    return relax.op.divide(node.scalar(1, node.dtype(0)), node[0])


@converter("IsInf")
def is_inf(node: Node) -> relax.Expr:
    x, dtype = node[0], node.dtype(0)
    positive, negative = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    if positive and negative:
        return relax.op.isinf(x)
    if not positive and not negative:
        return relax.op.zeros(node.shape(0), "bool")
    return relax.op.equal(x, node.scalar(math.inf if positive else -math.inf, dtype))


def _scalars(node: Node, **defaults: float) -> list[relax.Expr]:
    """Float attributes as scalar constants of the input's type, in order."""
    return [node.scalar(node.attr(name, value), node.dtype(0)) for name, value in defaults.items()]


@converter("LeakyRelu")
def leaky_relu(node: Node) -> relax.Expr:
    return relax.op.nn.leakyrelu(node[0], node.attr("alpha", 0.01))


@converter("ThresholdedRelu")
def thresholded_relu(node: Node) -> relax.Expr:
    x = node[0]
    (alpha,) = _scalars(node, alpha=1.0)
    return relax.op.where(relax.op.greater(x, alpha), x, node.scalar(0, node.dtype(0)))


@converter("PRelu")
def prelu(node: Node) -> relax.Expr:
    x, slope = node[0], node[1]
    if node.opset < 7 and node.rank(1) == 1 and node.shape(1) != (1,):
        slope = relax.op.reshape(slope, (*node.shape(1), *[1] * (node.rank(0) - 2)))
    negative = relax.op.less(x, node.scalar(0, node.dtype(0)))
    return relax.op.where(negative, relax.op.multiply(x, slope), x)


def _negative_branch(node: Node, negative: relax.Expr) -> relax.Expr:
    """``x`` where it is positive, ``negative`` elsewhere."""
    return relax.op.where(
        relax.op.greater(node[0], node.scalar(0, node.dtype(0))), node[0], negative
    )


@converter("Elu")
def elu(node: Node) -> relax.Expr:
    alpha, one = _scalars(node, alpha=1.0, _one=1.0)
    scaled = relax.op.multiply(alpha, relax.op.subtract(relax.op.exp(node[0]), one))
    return _negative_branch(node, scaled)


@converter("Celu")
def celu(node: Node) -> relax.Expr:
    alpha, one = _scalars(node, alpha=1.0, _one=1.0)
    power = relax.op.exp(relax.op.divide(node[0], alpha))
    return _negative_branch(node, relax.op.multiply(alpha, relax.op.subtract(power, one)))


@converter("Selu")
def selu(node: Node) -> relax.Expr:
    alpha, gamma, one = _scalars(
        node, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875, _one=1.0
    )
    scaled = relax.op.multiply(alpha, relax.op.subtract(relax.op.exp(node[0]), one))
    return relax.op.multiply(gamma, _negative_branch(node, scaled))


@converter("HardSigmoid")
def hard_sigmoid(node: Node) -> relax.Expr:
    alpha, beta = _scalars(node, alpha=0.2, beta=0.5)
    return relax.op.clip(relax.op.add(relax.op.multiply(node[0], alpha), beta), 0.0, 1.0)


@converter("HardSwish")
def hard_swish(node: Node) -> relax.Expr:
    x = node[0]
    sixth, half = _scalars(node, _sixth=1 / 6, _half=0.5)
    gate = relax.op.clip(relax.op.add(relax.op.multiply(x, sixth), half), 0.0, 1.0)
    return relax.op.multiply(x, gate)


@converter("Swish")
@converter("QuickGelu", domain="com.microsoft")
def swish(node: Node) -> relax.Expr:
    default = 1.0 if node.op == "Swish" else 1.702
    alpha = node.attr("alpha", default)
    if alpha == 1.0:
        return relax.op.nn.silu(node[0])
    scaled = relax.op.multiply(node[0], node.scalar(alpha, node.dtype(0)))
    return relax.op.multiply(node[0], relax.op.sigmoid(scaled))


@converter("Softplus")
def softplus(node: Node) -> relax.Expr:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    x = node[0]
    zero, one = _scalars(node, _zero=0.0, _one=1.0)
    tail = relax.op.log(relax.op.add(relax.op.exp(relax.op.negative(relax.op.abs(x))), one))
    return relax.op.add(relax.op.maximum(x, zero), tail)


@converter("Softsign")
def softsign(node: Node) -> relax.Expr:
    (one,) = _scalars(node, _one=1.0)
    return relax.op.divide(node[0], relax.op.add(relax.op.abs(node[0]), one))


@converter("Mish")
def mish(node: Node) -> relax.Expr:
    return relax.op.multiply(node[0], relax.op.tanh(node.emit(softplus(node))))


@converter("Shrink")
def shrink(node: Node) -> relax.Expr:
    x, dtype = node[0], node.dtype(0)
    if not dtype.startswith("float"):
        work = relax.op.astype(x, "float32")
        return relax.op.astype(_shrunk(node, work, "float32"), dtype)
    return _shrunk(node, x, dtype)


def _shrunk(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    lambd, bias = (node.scalar(node.attr(k, d), dtype) for k, d in (("lambd", 0.5), ("bias", 0.0)))
    zero = node.scalar(0, dtype)
    upper = relax.op.where(relax.op.greater(x, lambd), relax.op.subtract(x, bias), zero)
    below = relax.op.less(x, relax.op.negative(lambd))
    return relax.op.where(below, relax.op.add(x, bias), upper)


@converter("Gelu")
def gelu(node: Node) -> relax.Expr:
    if node.attr("approximate", "none") == "tanh":
        return relax.op.nn.gelu_tanh(node[0])
    return relax.op.nn.gelu(node[0])


@converter("Gelu", "BiasGelu", "FastGelu", domain="com.microsoft")
def biased_gelu(node: Node) -> relax.Expr:
    x = node.emit(relax.op.add(node[0], node[1])) if node.has(1) else node[0]
    return relax.op.nn.gelu_tanh(x) if node.op == "FastGelu" else relax.op.nn.gelu(x)


@converter("Hardmax")
def hardmax(node: Node) -> relax.Expr:
    x, dims = flattened_if_old(node)
    axis = _softmax_axis(node, len(dims))
    first = relax.op.argmax(x, axis=axis, keepdims=True)
    index = te_iota(node, dims, axis)
    hot = relax.op.astype(relax.op.equal(index, node.emit(first)), node.dtype(0))
    return relax.op.reshape(hot, node.shape(0))


def te_iota(node: Node, dims: tuple[int, ...], axis: int) -> relax.Expr:
    """int64 positions along ``axis``, of shape 1 everywhere else."""
    import numpy as np

    shape = [1] * len(dims)
    shape[axis] = dims[axis]
    return node.make_constant(np.arange(dims[axis], dtype=np.int64).reshape(shape))


def flattened_if_old(node: Node) -> tuple[relax.Expr, tuple[int, ...]]:
    """Below opset 13 softmax sees a matrix: all axes from ``axis`` on are one."""
    dims = node.shape(0)
    if node.opset >= 13:
        return node[0], dims
    axis = node.attr("axis", 1)
    axis = node.axis_in(axis, len(dims)) if axis != len(dims) else axis
    matrix = (math.prod(dims[:axis]), math.prod(dims[axis:]))
    if matrix == dims or axis == len(dims) - 1:
        return node[0], dims
    return node.emit(relax.op.reshape(node[0], matrix)), matrix


def _softmax_axis(node: Node, rank: int) -> int:
    if node.opset < 13:
        return rank - 1
    return node.axis_in(node.attr("axis", -1), rank)


@converter("Softmax", "LogSoftmax")
def softmax(node: Node) -> relax.Expr:
    function = relax.op.nn.softmax if node.op == "Softmax" else relax.op.nn.log_softmax
    if node.rank(0) == 0:
        raise ConversionError("softmax of a scalar")
    x, dims = flattened_if_old(node)
    axis = _softmax_axis(node, len(dims))
    if node.dtype(0) == "float16":
        wide = node.emit(relax.op.astype(x, "float32"))
        narrow = relax.op.astype(node.emit(function(wide, axis)), "float16")
        return relax.op.reshape(narrow, node.shape(0)) if dims != node.shape(0) else narrow
    if node.op == "LogSoftmax" and axis != len(dims) - 1:
        # TVM's kernel takes the last axis alone.
        order = [*(a for a in range(len(dims)) if a != axis), axis]
        moved = node.emit(function(node.emit(relax.op.permute_dims(x, order)), -1))
        return relax.op.permute_dims(moved, [order.index(a) for a in range(len(dims))])
    result = function(x, axis)
    return relax.op.reshape(result, node.shape(0)) if dims != node.shape(0) else result
