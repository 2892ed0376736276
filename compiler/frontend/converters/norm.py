"""Normalisations, decomposed for inference."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, np_dtype
from compiler.frontend.response_norm import ResponseNorm, response_norm


def _channel_shape(node: Node) -> tuple[int, ...]:
    return (1, -1, *[1] * (node.rank(0) - 2))


def _channels(node: Node, x: relax.Expr) -> relax.Expr:
    """A vector of channels, shaped to broadcast over the input."""
    count = node.shape(0)[1] if node.rank(0) > 1 else node.shape(0)[0]
    shape = (1, count, *[1] * (node.rank(0) - 2)) if node.rank(0) > 1 else (count,)
    return relax.op.reshape(x, shape)


@converter("BatchNormalization")
def batch_normalization(node: Node) -> list[relax.Expr]:
    """One multiply and one add; of constants both factors are computed now, in float64."""
    epsilon = node.attr("epsilon", 1e-5)
    if node.attr("training_mode", 0):
        return _training_batch_norm(node, epsilon)
    dtype = node.dtype(0)
    if all(node.is_const(i) for i in range(1, 5)):
        scale, bias, mean, variance = (node.inputs[i].astype(np.float64) for i in range(1, 5))
        factor = scale / np.sqrt(variance + epsilon)
        offset = bias - mean * factor
        if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            raise ConversionError("its statistics make the result infinite or NaN")
        shape = _channel_shape(node) if node.rank(0) > 1 else (-1,)
        multiplier, added = (
            node.make_constant(a.reshape(shape).astype(np_dtype(dtype))) for a in (factor, offset)
        )
    else:
        scale, bias, mean, variance = (cast(node[i], dtype) for i in range(1, 5))
        rate = _inverse_root(node, variance, epsilon, dtype)
        factor = node.emit(relax.op.multiply(scale, rate))
        multiplier = _channels(node, factor)
        added = _channels(node, relax.op.subtract(bias, relax.op.multiply(mean, factor)))
    return [relax.op.add(relax.op.multiply(node[0], multiplier), added)]


def _inverse_root(node: Node, variance: relax.Expr, epsilon: float, dtype: str) -> relax.Expr:
    shifted = relax.op.sqrt(relax.op.add(variance, node.scalar(epsilon, dtype)))
    return relax.op.divide(node.scalar(1, dtype), shifted)


def _training_batch_norm(node: Node, epsilon: float) -> list[relax.Expr]:
    dtype, momentum = node.dtype(0), node.attr("momentum", 0.9)
    axes = [axis for axis in range(node.rank(0)) if axis != 1]
    mean = node.emit(relax.op.mean(node[0], axes))
    variance = node.emit(relax.op.variance(node[0], axes))
    rate = node.emit(relax.op.multiply(node[1], _inverse_root(node, variance, epsilon, dtype)))
    centred = relax.op.subtract(node[0], _channels(node, mean))
    scaled = relax.op.multiply(centred, _channels(node, rate))
    results = [relax.op.add(scaled, _channels(node, node[2]))]
    for running, current in ((node[3], mean), (node[4], variance)):
        kept = relax.op.multiply(running, node.scalar(momentum, dtype))
        results.append(
            relax.op.add(kept, relax.op.multiply(current, node.scalar(1 - momentum, dtype)))
        )
    return results


def moments(
    node: Node, x: relax.Expr, axes: list[int], epsilon: float, dtype: str
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Normalised ``x``, its mean, and 1 / sqrt(variance + epsilon), both with kept axes."""
    mean = node.emit(relax.op.mean(x, axes, keepdims=True))
    centred = node.emit(relax.op.subtract(x, mean))
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True)
    rate = node.emit(_inverse_root(node, variance, epsilon, dtype))
    return node.emit(relax.op.multiply(centred, rate)), mean, rate


@converter("LayerNormalization")
def layer_normalization(node: Node) -> list[relax.Expr]:
    dims, dtype = node.shape(0), node.dtype(0)
    first = node.axis_in(node.attr("axis", -1), len(dims))
    axes = list(range(first, len(dims)))
    epsilon = node.attr("epsilon", 1e-5)
    plain = node.shape(1) == dims[first:] and (not node.has(2) or node.shape(2) == dims[first:])
    if plain and dtype == "float32" and not node.wants(1) and not node.wants(2):
        beta = node[2] if node.has(2) else node.make_constant(np.zeros(dims[first:], dtype))
        return [relax.op.nn.layer_norm(node[0], node[1], beta, axes, epsilon)]
    work = "float32" if dtype in ("float16", "bfloat16") else dtype
    x = node.emit(cast(node[0], work)) if work != dtype else node[0]
    normal, mean, rate = moments(node, x, axes, epsilon, work)
    result = relax.op.multiply(cast(normal, dtype), node[1])
    return [relax.op.add(result, node[2]) if node.has(2) else result, mean, rate]


@converter("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_normalization(node: Node) -> list[relax.Expr]:
    total = relax.op.add(node[0], node[1])
    if node.has(4):
        total = relax.op.add(total, node[4])
    total = node.emit(total)
    beta = node[3] if node.has(3) else node.make_constant(np.zeros(node.shape(2), node.dtype(2)))
    epsilon = node.attr("epsilon", 1e-5)
    normal = relax.op.nn.layer_norm(total, node[2], beta, [-1], epsilon)
    return [normal, None, None, total]


@converter("RMSNormalization")
def rms_normalization(node: Node) -> relax.Expr:
    dims, dtype = node.shape(0), node.dtype(0)
    axes = list(range(node.axis_in(node.attr("axis", -1), len(dims)), len(dims)))
    work = "float32" if dtype in ("float16", "bfloat16") else dtype
    x = node.emit(cast(node[0], work)) if work != dtype else node[0]
    square = relax.op.mean(relax.op.multiply(x, x), axes, keepdims=True)
    rate = _inverse_root(node, square, node.attr("epsilon", 1e-5), work)
    return relax.op.multiply(cast(node.emit(relax.op.multiply(x, rate)), dtype), node[1])


@converter("InstanceNormalization")
def instance_normalization(node: Node) -> relax.Expr:
    axes = list(range(2, node.rank(0)))
    normal, _, _ = moments(node, node[0], axes, node.attr("epsilon", 1e-5), node.dtype(0))
    scaled = relax.op.multiply(normal, _channels(node, node[1]))
    return relax.op.add(scaled, _channels(node, node[2]))


@converter("GroupNormalization")
def group_normalization(node: Node) -> relax.Expr:
    dims, dtype, groups = node.shape(0), node.dtype(0), node.attr("num_groups")
    work = "float32" if dtype in ("float16", "bfloat16") else dtype
    grouped = (dims[0], groups, dims[1] // groups, *dims[2:])
    x = node.emit(relax.op.reshape(node[0], grouped))
    x = node.emit(cast(x, work)) if work != dtype else x
    axes = list(range(2, len(grouped)))
    normal, _, _ = moments(node, x, axes, node.attr("epsilon", 1e-5), work)
    normal = cast(normal, dtype)
    if node.opset < 21:  # scale and bias by group
        shape = (1, groups, *[1] * (len(grouped) - 2))
        scaled = relax.op.multiply(normal, relax.op.reshape(node[1], shape))
        return relax.op.reshape(relax.op.add(scaled, relax.op.reshape(node[2], shape)), dims)
    flat = node.emit(relax.op.reshape(normal, dims))
    scaled = relax.op.multiply(flat, _channels(node, node[1]))
    return relax.op.add(scaled, _channels(node, node[2]))


@converter("LpNormalization")
def lp_normalization(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", -1), node.rank(0))
    x, power = node[0], node.attr("p", 2)
    if power == 1:
        norm = relax.op.sum(relax.op.abs(x), [axis], keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), [axis], keepdims=True))
    norm = node.emit(norm)
    zero = node.scalar(0, node.dtype(0))
    safe = relax.op.where(relax.op.equal(norm, zero), node.scalar(1, node.dtype(0)), norm)
    return relax.op.divide(x, safe)


@converter("LRN")
def local_response_normalization(node: Node) -> relax.Expr:
    norm = ResponseNorm(
        node.attr("size"), node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    )
    return node.te(response_norm, node[0], norm, name="response_norm", attrs=norm.attrs)
