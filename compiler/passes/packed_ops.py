"""Tensor expressions of operators on packed layouts.

A packed activation is [N, ceil(C/c), H, W, c] (NCHWc); an ordinary NCHW tensor is the same with
c = 1. Weights are packed at compile time so that ``c`` output channels are contiguous.
The anchor blocks carry the annotation ``edgecc.anchor``, by which schedule templates find them.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import te, tirx

from compiler.frontend.response_norm import ResponseNorm
from compiler.passes.channel_order import ChannelOrder, blocks_of

ANCHOR = "edgecc.anchor"
# Block annotation: multiply-accumulates of one element, where no reduction counts them.
PRODUCTS = "edgecc.products"
# How many groups a convolution has: neighbouring blocks of different groups read different inputs.
GROUPS = "edgecc.groups"
# How many steps of a grouped convolution of bytes read neighbours, as whole vectors of inputs do.
TOGETHER = "edgecc.together"
# FuseOps lets element-wise consumers join a function of this pattern.
FUSABLE = {"op_pattern": 4}
# FuseOps lets nothing join a function of this pattern.
OPAQUE = {"op_pattern": 8}
# What it takes for one of these, wherever its elements come to lie.
JOINING = {"edgecc.joins": 1}
# Neighbours in a row that use different weights, in turn.
PHASES = "edgecc.phases"


def join_elementwise() -> tvm.ir.transform.Pass:
    """What is ``JOINING`` counts as element-wise; after ``AnnotateTIROpPattern``."""

    def element_wise(func: tirx.PrimFunc, module: tvm.IRModule, context: object) -> tirx.PrimFunc:
        joins = func.attrs is not None and next(iter(JOINING)) in func.attrs
        return func.with_attr("op_pattern", 0) if joins else func

    return tirx.transform.prim_func_pass(element_wise, opt_level=0, name="edgecc.join_elementwise")


@dataclass(frozen=True)
class Window:
    """Geometry of a 2-D sliding window; pads are (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Extents (OH, OW) of the result for an input of extents (height, width)."""
        top, left, bottom, right = self.pads
        reach_h = self.dilation[0] * (self.kernel[0] - 1) + 1
        reach_w = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (
            (height + top + bottom - reach_h) // self.strides[0] + 1,
            (width + left + right - reach_w) // self.strides[1] + 1,
        )


def pad_spatial(x: te.Tensor, pads: tuple[int, int, int, int]) -> te.Tensor:
    """Zero-pad H and W of a packed tensor; the tensor itself where there is nothing to pad."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    n, blocks, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        zero = tirx.const(0, x.dtype)
        return tirx.if_then_else(inside, x[i, j, h - top, w - left, k], zero)

    shape = (n, blocks, height + top + bottom, width + left + right, c)
    return te.compute(shape, element, name="pad")


def dilate_spatial(x: te.Tensor, factors: tuple[int, int]) -> te.Tensor:
    """Put ``factor - 1`` zeros between neighbours along H and W of a packed tensor."""
    n, blocks, height, width, c = (int(d) for d in x.shape)
    fh, fw = factors

    def element(i, j, h, w, k):
        hit = tirx.all(h % fh == 0, w % fw == 0)
        return tirx.if_then_else(hit, x[i, j, h // fh, w // fw, k], tirx.const(0, x.dtype))

    shape = (n, blocks, (height - 1) * fh + 1, (width - 1) * fw + 1, c)
    return te.compute(shape, element, name="dilate")


def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    window: Window,
    groups: int = 1,
    order: ChannelOrder | None = None,
) -> te.Tensor:
    """Convolution on packed layouts.

    Args:
        x: [N, IC/ci, H, W, ci]; channels beyond the true IC are never read.
        weight: [OCb, ICb, KH, KW, ci, c], or [OCb, ICg, KH, KW, 1, c] with one input channel at a
            time where ci does not divide the channels of a group.
        groups: c must divide the output channels of one group, with those that pad it.
        order: of x's channels; with one, ci channels are never taken at a time.

    Returns:
        [N, OCb, OH, OW, c].
    """
    n, _, height, width, ci = (int(d) for d in x.shape)
    oc_blocks, ic_outer, _, _, ic_inner, c = (int(d) for d in weight.shape)
    oh, ow = window.output_size(height, width)
    padded = pad_spatial(x, window.pads)
    r_outer = te.reduce_axis((0, ic_outer), name="ic_outer")
    r_h = te.reduce_axis((0, window.kernel[0]), name="kh")
    r_w = te.reduce_axis((0, window.kernel[1]), name="kw")
    r_inner = te.reduce_axis((0, ic_inner), name="ic_inner")
    (sh, sw), (dh, dw) = window.strides, window.dilation
    blocks_per_group = oc_blocks // groups

    def element(i, j, h, w, k):
        group = 0 if groups == 1 else j // blocks_per_group
        # The (blocked, or else single) slot of the group's next input channel.
        if order is None:
            slot = group * ic_outer + r_outer
        elif order.groups == groups and not order.shuffled:
            slot = group * order.stride + r_outer
        else:
            slot = order.slot(group * ic_outer + r_outer)
        blocked = order is None and ic_inner == ci
        block, lane = (slot, r_inner) if blocked else (slot // ci, slot % ci)
        value = padded[i, block, h * sh + r_h * dh, w * sw + r_w * dw, lane]
        return te.sum(
            value * weight[j, r_outer, r_h, r_w, r_inner, k], axis=[r_outer, r_h, r_w, r_inner]
        )

    attrs = {ANCHOR: "conv2d", GROUPS: groups}
    return te.compute((n, oc_blocks, oh, ow, c), element, name="conv2d", attrs=attrs)


def depthwise_conv2d(x: te.Tensor, weight: te.Tensor, window: Window) -> te.Tensor:
    """Depthwise convolution, one output channel an input channel.

    Args:
        x: [N, Cb, H, W, c].
        weight: [Cb, KH, KW, c].

    Returns:
        [N, Cb, OH, OW, c].
    """
    n, blocks, height, width, c = (int(d) for d in x.shape)
    oh, ow = window.output_size(height, width)
    padded = pad_spatial(x, window.pads)
    r_h = te.reduce_axis((0, window.kernel[0]), name="kh")
    r_w = te.reduce_axis((0, window.kernel[1]), name="kw")
    (sh, sw), (dh, dw) = window.strides, window.dilation

    def element(i, j, h, w, k):
        value = padded[i, j, h * sh + r_h * dh, w * sw + r_w * dw, k]
        return te.sum(value * weight[j, r_h, r_w, k], axis=[r_h, r_w])

    return te.compute(
        (n, blocks, oh, ow, c), element, name="depthwise", attrs={ANCHOR: "depthwise"}
    )


def response_norm(x: te.Tensor, channels: int, norm: ResponseNorm) -> te.Tensor:
    """Local response normalisation of the first ``channels`` of [N, Cb, H, W, c].

    The squares of a pixel lie in one row with zeros on both sides, so that a window's values are
    neighbours and a vector of windows is a sum of shifted vectors.
    """
    n, blocks, height, width, c = (int(d) for d in x.shape)
    front = -(-norm.before // c) * c
    back = -(-(norm.size - 1 - norm.before) // c) * c
    zero = tirx.const(0, x.dtype)

    def square(i, h, w, channel):
        value = x[i, tirx.floordiv(channel - front, c), h, w, tirx.floormod(channel - front, c)]
        inside = tirx.all(channel >= front, channel < front + channels)
        return tirx.if_then_else(inside, value * value, zero)

    shape = (n, height, width, front + blocks * c + back)
    squares = te.compute(shape, square, name="squares")

    def element(i, j, h, w, k):
        first = j * c + k + front - norm.before
        energy = squares[i, h, w, first]
        for shift in range(1, norm.size):
            energy = energy + squares[i, h, w, first + shift]
        return x[i, j, h, w, k] * norm.scale(energy, x.dtype)

    return te.compute(x.shape, element, name="response_norm", attrs={ANCHOR: "response_norm"})


def pack_channels(x: te.Tensor, c: int, order: ChannelOrder | None = None) -> te.Tensor:
    """[N, C, H, W] -> [N, blocks, H, W, c], zeros in the lanes without a channel."""
    n, channels, height, width = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        slot = j * c + k
        channel, exists = (slot, (slot < channels,)) if order is None else order.channel(slot)
        if channels == blocks * c:
            return x[i, channel, h, w]
        return tirx.if_then_else(tirx.all(*exists), x[i, channel, h, w], tirx.const(0, x.dtype))

    blocks = blocks_of(channels, c, order)
    return te.compute((n, blocks, height, width, c), element, name="pack_channels")


def unpack_channels(x: te.Tensor, channels: int, order: ChannelOrder | None = None) -> te.Tensor:
    """[N, blocks, H, W, c] -> [N, channels, H, W]."""
    n, _, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w):
        slot = j if order is None else order.slot(j)
        return x[i, slot // c, h, w, slot % c]

    return te.compute((n, channels, height, width), element, name="unpack_channels")


def matmul(a: te.Tensor, b_packed: te.Tensor, columns: int) -> te.Tensor:
    """[..., M, K] x packed [..., ceil(N/c), K, c] -> [..., M, N], N = columns.

    b_packed has either no batch dimensions or those of ``a``, where an extent of 1 broadcasts.
    """
    *batch_a, rows, depth = (int(d) for d in a.shape)
    *batch_b, blocks, _, c = (int(d) for d in b_packed.shape)
    batch = _broadcast(batch_a, batch_b)
    k = te.reduce_axis((0, depth), name="k")

    def tile(*index):
        *outer, m, j, lane = index
        left = a[(*_clamp(outer, batch_a), m, k)]
        right = b_packed[(*_clamp(outer, batch_b), j, k, lane)]
        return te.sum(left * right, axis=[k])

    product = te.compute((*batch, rows, blocks, c), tile, name="matmul", attrs={ANCHOR: "matmul"})
    return te.compute(
        (*batch, rows, columns),
        lambda *index: product[(*index[:-1], index[-1] // c, index[-1] % c)],
        name="matmul_unpack",
    )


def pack_columns(b: te.Tensor, c: int) -> te.Tensor:
    """[..., K, N] -> [..., ceil(N/c), K, c], zeros beyond N."""
    *batch, depth, columns = (int(d) for d in b.shape)

    def element(*index):
        *outer, j, k, lane = index
        column = j * c + lane
        if columns % c == 0:
            return b[(*outer, k, column)]
        return tirx.if_then_else(column < columns, b[(*outer, k, column)], tirx.const(0, b.dtype))

    return te.compute((*batch, -(-columns // c), depth, c), element, name="pack_columns")


def _broadcast(a: list[int], b: list[int]) -> list[int]:
    rank = max(len(a), len(b))
    a = [1] * (rank - len(a)) + a
    b = [1] * (rank - len(b)) + b
    return [max(i, j) for i, j in zip(a, b, strict=True)]


def _clamp(index: list, shape: list[int]) -> list:
    """Indices into an operand of fewer or broadcast dimensions."""
    index = index[len(index) - len(shape) :]
    return [0 if extent == 1 else i for i, extent in zip(index, shape, strict=True)]
