"""Depthwise convolution of bytes: products of two taps add up in int16, all of them in int32.

Where one instruction widens a product and adds it to int32, taps come one by one.
"""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from compiler.passes.channel_order import ChannelOrder
from compiler.passes.packed_ops import ANCHOR, PRODUCTS, Window
from compiler.passes.packed_values import spread_channels

# Windows up to this size are one expression.
MAX_TAPS = 25


def depthwise_conv2d(
    x: te.Tensor, weight: te.Tensor, bias: te.Tensor, window: Window, zero: int
) -> te.Tensor:
    """Depthwise convolution, one output channel an input channel.

    Two products fit in int16 where weights are above -128: 2 * 128 * 127 < 2^15. There is no
    reduction: each sum is one expression, in which neighbours share what they load.

    Args:
        x: int8 [N, Cb, H, W, c].
        weight: int8 [Cb, KH, KW, c].
        bias: int32 [1, Cb, 1, 1, c].
        zero: what x is padded with.

    Returns:
        int32 [N, Cb, OH, OW, c].
    """
    n, blocks, height, width, c = (int(d) for d in x.shape)
    oh, ow = window.output_size(height, width)
    padded = _padded(x, window.pads, zero)
    (sh, sw), (dh, dw) = window.strides, window.dilation
    taps = [(r, s) for r in range(window.kernel[0]) for s in range(window.kernel[1])]

    def element(i, j, h, w, k):
        total = bias[0, j, 0, 0, k]
        for first in range(0, len(taps), 2):
            products = [
                padded[i, j, h * sh + r * dh, w * sw + s * dw, k].astype("int16")
                * weight[j, r, s, k].astype("int16")
                for r, s in taps[first : first + 2]
            ]
            total = total + sum(products[1:], products[0]).astype("int32")
        return total

    attrs = {ANCHOR: "depthwise_integer", PRODUCTS: len(taps)}
    return te.compute((n, blocks, oh, ow, c), element, name="depthwise", attrs=attrs)


def depthwise_conv2d_by_tap(
    x: te.Tensor, weight: te.Tensor, bias: te.Tensor, window: Window, zero: int
) -> te.Tensor:
    """As ``depthwise_conv2d``, for weights of all of int8, by a reduction over taps."""
    n, blocks, height, width, c = (int(d) for d in x.shape)
    oh, ow = window.output_size(height, width)
    padded = _padded(x, window.pads, zero)
    r_h = te.reduce_axis((0, window.kernel[0]), name="kh")
    r_w = te.reduce_axis((0, window.kernel[1]), name="kw")
    (sh, sw), (dh, dw) = window.strides, window.dilation

    def element(i, j, h, w, k):
        value = padded[i, j, h * sh + r_h * dh, w * sw + r_w * dw, k]
        product = value.astype("int32") * weight[j, r_h, r_w, k].astype("int32")
        return te.sum(product, axis=[r_h, r_w])

    total = te.compute(
        (n, blocks, oh, ow, c), element, name="depthwise", attrs={ANCHOR: "depthwise"}
    )
    return te.compute(
        total.shape,
        lambda i, j, h, w, k: total[i, j, h, w, k] + bias[0, j, 0, 0, k],
        name="biased",
    )


def _padded(x: te.Tensor, pads: tuple[int, int, int, int], zero: int) -> te.Tensor:
    if not any(pads):
        return x
    top, left, bottom, right = pads
    n, blocks, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        value = x[i, j, h - top, w - left, k]
        return tirx.if_then_else(inside, value, tirx.const(zero, x.dtype))

    shape = (n, blocks, height + top + bottom, width + left + right, c)
    return te.compute(shape, element, name="pad")


def pack_weight(weight: np.ndarray, block: int, order: ChannelOrder | None = None) -> np.ndarray:
    """[C, 1, KH, KW] -> [blocks, KH, KW, c], zeros for slots without a channel."""
    kernel = weight.shape[2:]
    spread = spread_channels(weight, 0, block, order).reshape(-1, block, *kernel)
    return np.ascontiguousarray(spread.transpose(0, 2, 3, 1))
