"""Convolutions."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.converters.window import layout, window
from compiler.frontend.node import ConversionError, Node, shape_of

_CONV = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
_TRANSPOSE = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}


@converter("Conv")
@converter("FusedConv", domain="com.microsoft")
def conv(node: Node) -> relax.Expr:
    result = convolve(node, node[0], node.weight(1), shape_of(node.inputs[1]))
    if node.has(2):
        result = add_bias(node, result, 2)
    if node.op == "FusedConv":
        if node.has(3):
            result = relax.op.add(result, node[3])
        result = _activate(node, result)
    return result


def convolve(
    node: Node,
    x: relax.Expr,
    weight: relax.Expr,
    weight_shape: tuple[int, ...],
    out_dtype: str | None = None,
) -> relax.Expr:
    """The convolution that the node's attributes describe, without bias."""
    dims = node.shape(0)
    rank = len(dims) - 2
    data_layout, kernel_layout = layout(rank)
    groups = node.attr("group", 1)
    kernel = list(weight_shape[2:])
    if node.attr("kernel_shape", kernel) != kernel:
        raise ConversionError(f"kernel_shape disagrees with the weight's shape {weight_shape}")
    if groups < 1 or weight_shape[1] * groups != dims[1] or weight_shape[0] % groups:
        raise ConversionError(
            f"{dims[1]} input channels do not fit weights of {weight_shape} in {groups} groups"
        )
    view = window(node, dims[2:], kernel)
    return _CONV[rank](
        x,
        weight,
        strides=view.strides,
        padding=view.padding,
        dilation=view.dilations,
        groups=groups,
        data_layout=data_layout,
        kernel_layout=kernel_layout,
        out_dtype=out_dtype,
    )


def add_bias(node: Node, result: relax.Expr, index: int) -> relax.Expr:
    """``result`` + the bias of input ``index`` along the channels (axis 1)."""
    shape = (1, node.shape(index)[0], *[1] * (node.rank(0) - 2))
    if node.is_const(index):
        bias = node.make_constant(node.inputs[index].reshape(shape))
    else:
        bias = relax.op.reshape(node[index], shape)
    return relax.op.add(result, bias)


def _activate(node: Node, x: relax.Expr) -> relax.Expr:
    kind, params = node.attr("activation", ""), node.attr("activation_params", [])
    if kind in ("", "Relu"):
        return relax.op.nn.relu(x) if kind else x
    if kind == "LeakyRelu":
        return relax.op.nn.leakyrelu(x, params[0])
    if kind == "Clip":
        return relax.op.clip(x, params[0], params[1])
    if kind in ("Sigmoid", "Tanh"):
        return relax.op.sigmoid(x) if kind == "Sigmoid" else relax.op.tanh(x)
    raise ConversionError(f"activation {kind} of a fused convolution is not supported")


@converter("ConvTranspose")
def conv_transpose(node: Node) -> relax.Expr:
    dims, weight_shape = node.shape(0), node.shape(1)
    rank = len(dims) - 2
    data_layout, kernel_layout = layout(rank)
    kernel, groups = list(weight_shape[2:]), node.attr("group", 1)
    strides = node.attr("strides") or [1] * rank
    dilations = node.attr("dilations") or [1] * rank
    extra = node.attr("output_padding") or [0] * rank
    before, after = _transpose_pads(node, dims[2:], kernel, strides, dilations, extra)
    weight = _dilated(node, dilations)
    # What the pads would add instead of remove, and output padding beyond the stride, come last.
    crop = [max(0, n) for n in before + after]
    inner = [e if e < s else 0 for e, s in zip(extra, strides, strict=True)]
    result = _TRANSPOSE[rank](
        node[0],
        weight,
        strides=strides,
        padding=crop,
        output_padding=inner,
        groups=groups,
        data_layout=data_layout,
        kernel_layout="IO" + kernel_layout[2:],
    )
    grow = [max(0, -n) for n in before], [max(0, -n) for n in after]
    rest = [e - i for e, i in zip(extra, inner, strict=True)]
    if any(grow[0]) or any(grow[1]) or any(rest):
        widths = [0, 0, 0, 0]
        for first, last, more in zip(*grow, rest, strict=True):
            widths += [first, last + more]
        result = relax.op.nn.pad(result, widths, "constant", 0.0)
    return add_bias(node, result, 2) if node.has(2) else result


def _transpose_pads(
    node: Node,
    spatial: tuple[int, ...],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    extra: list[int],
) -> tuple[list[int], list[int]]:
    rank = len(spatial)
    pads = node.attr("pads") or [0] * (2 * rank)
    auto, wanted = node.attr("auto_pad", "NOTSET"), node.attr("output_shape")
    if wanted is not None:
        wanted = list(wanted)[-rank:]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(spatial, strides, strict=True)]
    if wanted is None:
        return list(pads[:rank]), list(pads[rank:])
    before, after = [], []
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = strides[axis] * (spatial[axis] - 1) + extra[axis] + reach - wanted[axis]
        half = total // 2
        first, last = (half, total - half) if auto == "SAME_UPPER" else (total - half, half)
        before.append(first)
        after.append(last)
    return before, after


def _dilated(node: Node, dilations: list[int]) -> relax.Expr:
    """The kernel with zeros between its elements: Relax's transposed convolutions do not dilate."""
    if all(d == 1 for d in dilations):
        return node.weight(1)
    weight = node.inputs[1]
    if not isinstance(weight, np.ndarray):
        shape = [*node.shape(1)]
        x = node[1]
        for axis, dilation in enumerate(dilations, 2):
            if dilation == 1:
                continue
            x = relax.op.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
            widths = [0, 0] * (axis + 1) + [0, dilation - 1] + [0, 0] * (len(shape) - axis - 1)
            x = relax.op.nn.pad(node.emit(x), widths)
            shape[axis] *= dilation
            x = node.emit(relax.op.reshape(node.emit(x), tuple(shape)))
            end = shape[axis] - dilation + 1
            x = node.emit(relax.op.strided_slice(x, [axis], [0], [end]))
            shape[axis] = end
        return x
    shape = [(n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilations, strict=True)]
    sparse = np.zeros((*weight.shape[:2], *shape), weight.dtype)
    sparse[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = weight
    return node.make_constant(sparse)
