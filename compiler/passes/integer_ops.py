"""Tensor expressions of integer operators, and of products of bfloat16, on packed layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from compiler.passes import integer_pairs
from compiler.passes.dot_layout import DotLayout
from compiler.passes.integer_groups import Groups
from compiler.passes.packed_ops import ANCHOR, GROUPS, TOGETHER, Window

# Attribute of a block that gathers channels of several blocks in one: how many lanes those have.
LANES = "edgecc.lanes"
# Name of the block that makes floats of a product's weights.
STORED_WEIGHTS = "stored_weights"
# What may be rounded to int32.
MAX_ROUNDED = float(1 << 30)


def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    bias: te.Tensor | None,
    window: Window,
    zero: int,
    layout: DotLayout,
    groups: Groups | None = None,
) -> te.Tensor:
    """Convolution of 8-bit integers or of bfloat16.

    Args:
        x: [N, ICb, H, W, ci] of ``layout.activation``; ci is a multiple of ``layout.group``, or
            all channels of one of several pixels that make a group.
        weight: [OCb, steps, KH, KW, c, group], or [..., parts, c, part] where a group has
            parts; zeros for channels (and pixels) that are none.
        bias: of ``layout.sums`` [1, OCb, 1, 1, c]; None for none.
        zero: what x is padded with.
        groups: which steps of x each block of output channels reads; None: all, in order.

    Returns:
        ``layout.sums`` [N, OCb, OH, OW, c].
    """
    n, _, height, width, ci = (int(d) for d in x.shape)
    oc_blocks, steps, kh, kw = (int(d) for d in weight.shape[:4])
    c, group, part = int(weight.shape[-2]), layout.group, int(weight.shape[-1])
    oh, ow = window.output_size(height, width)
    pads = window.pads
    if ci % group:
        reach = (ow - 1) * window.strides[1] + steps * group // ci
        pads = (*pads[:3], max(pads[3], reach - width - pads[1]))
    padded = _operand(x, pads, zero, layout)
    if layout.pairs_pixels:
        pairs = integer_pairs.conv2d(padded, weight, window, (oh, ow), layout.sums)
        return pairs if bias is None else biased(pairs, bias)
    r_outer = te.reduce_axis((0, steps), name="step")
    r_h = te.reduce_axis((0, kh), name="kh")
    r_w = te.reduce_axis((0, kw), name="kw")
    r_inner = te.reduce_axis((0, group), name="inner")
    (sh, sw), (dh, dw) = window.strides, window.dilation
    per_block = ci // group

    def element(i, j, h, w, k):
        row, column = h * sh + r_h * dh, w * sw + r_w * dw
        if ci % group:
            lane = r_outer * group + r_inner
            value = padded[i, 0, row, column + lane // ci, lane % ci]
        else:
            step = r_outer
            if groups is not None:
                step = groups.step(j // (oc_blocks // groups.count), r_outer)
            lane = step % per_block * group + r_inner
            value = padded[i, step // per_block, row, column, lane]
        inner = (k, r_inner) if part == group else (r_inner // part, k, r_inner % part)
        factor = weight[(j, r_outer, r_h, r_w, *inner)]
        product = value.astype(layout.sums) * factor.astype(layout.sums)
        return te.sum(product, axis=[r_outer, r_h, r_w, r_inner])

    attrs: dict[str, str | int] = {ANCHOR: "conv2d_integer"}
    if groups is not None:
        attrs |= {GROUPS: groups.count, TOGETHER: groups.together}
    total = te.compute((n, oc_blocks, oh, ow, c), element, name="conv2d", attrs=attrs)
    return total if bias is None else biased(total, bias)


def biased(total: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """int32 [N, OCb, H, W, c] plus int32 [1, OCb, 1, 1, c]."""
    return te.compute(
        total.shape,
        lambda i, j, h, w, k: total[i, j, h, w, k] + bias[0, j, 0, 0, k],
        name="biased",
    )


def matmul(
    a: te.Tensor,
    weight: te.Tensor,
    bias: te.Tensor | None,
    scale: te.Tensor | None,
    columns: int,
    layout: DotLayout,
) -> te.Tensor:
    """Product of 8-bit integers, as real numbers where there is a scale, or of bfloat16.

    Args:
        a: [..., M, K] of ``layout.activation``; K is a multiple of ``layout.group``.
        weight: [blocks, K / group, c, group].
        bias: int32 [blocks, c]; None for none.
        scale: float32 [blocks, c].
        columns: N.

    Returns:
        float32 [..., M, N]: (a @ weight + bias) * scale; ``layout.sums`` without a scale.
    """
    *batch, rows, _ = (int(d) for d in a.shape)
    c, operand = int(weight.shape[2]), a
    if str(a.dtype) != layout.operand:
        operand = te.compute(a.shape, lambda *i: a[i].astype(layout.operand), name="widened")
    if layout.pairs_pixels:
        total = integer_pairs.matmul(operand, weight, layout.sums)
    else:
        total = products(operand, weight, layout.sums)

    def real(*index):
        *outer, m, n = index
        block, lane = n // c, n % c
        if layout.pairs_pixels:
            biased = total[(*outer, m // 2, block, lane // 2, m % 2, lane % 2)]
        else:
            biased = total[(*outer, m, block, lane)]
        if bias is not None:
            biased = biased + bias[block, lane]
        return biased if scale is None else biased.astype("float32") * scale[block, lane]

    return te.compute((*batch, rows, columns), real, name="matmul_unpack")


def products(a: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """Sums of a matrix product, [..., M, blocks, c]; batches broadcast.

    Args:
        a: [..., M, K]; K is a multiple of the group.
        weight: [..., blocks, K / group, c, group].
        dtype: of the sums.
    """
    *left, rows, _ = (int(d) for d in a.shape)
    *right, blocks, steps, c, group = (int(d) for d in weight.shape)
    batch = np.broadcast_shapes(tuple(left), tuple(right))
    step = te.reduce_axis((0, steps), name="step")
    inner = te.reduce_axis((0, group), name="inner")

    def tile(*index):
        *outer, m, j, lane = index
        of_left, of_right = (broadcast_index(outer, batch, own) for own in (left, right))
        value = a[(*of_left, m, step * group + inner)].astype(dtype)
        factor = weight[(*of_right, j, step, lane, inner)].astype(dtype)
        return te.sum(value * factor, axis=[step, inner])

    shape = (*batch, rows, blocks, c)
    return te.compute(shape, tile, name="matmul", attrs={ANCHOR: "matmul_integer"})


def broadcast_index(index: Sequence, shape: Sequence[int], own: Sequence[int]) -> list:
    """Where a tensor of shape ``own`` has what it gives to an index of ``shape``, broadcast."""
    skipped = len(shape) - len(own)
    axes = zip(index[skipped:], shape[skipped:], own, strict=True)
    return [0 if extent == 1 != whole else i for i, whole, extent in axes]


def matmul_of_stored(a: te.Tensor, weight: te.Tensor, scale: te.Tensor, columns: int) -> te.Tensor:
    """Product of floats with weights that are stored as bytes, computed in float.

    Args:
        a: float32 [..., M, K].
        weight: int8 [blocks, K, c].
        scale: float32 [blocks, c].
        columns: N.

    Returns:
        float32 [..., M, N]: (a @ weight) * scale.
    """
    *batch, rows, depth = (int(d) for d in a.shape)
    blocks, _, c = (int(d) for d in weight.shape)
    real = te.compute(weight.shape, lambda *i: weight[i].astype(a.dtype), name=STORED_WEIGHTS)
    k = te.reduce_axis((0, depth), name="k")

    def tile(*index):
        *outer, m, j, lane = index
        return te.sum(a[(*outer, m, k)] * real[j, k, lane], axis=[k])

    product = te.compute((*batch, rows, blocks, c), tile, name="matmul", attrs={ANCHOR: "matmul"})

    def element(*index):
        *outer, n = index
        return product[(*outer, n // c, n % c)] * scale[n // c, n % c]

    return te.compute((*batch, rows, columns), element, name="matmul_unpack")


def scaled(total: te.Tensor, scale: te.Tensor) -> te.Tensor:
    """int32 [N, OCb, H, W, c] times float32 [1, OCb, 1, 1, c]."""
    return te.compute(
        total.shape,
        lambda i, j, h, w, k: total[i, j, h, w, k].astype("float32") * scale[0, j, 0, 0, k],
        name="scaled",
    )


def requantize(total: te.Tensor, scale: te.Tensor, zero: int, dtype: str) -> te.Tensor:
    """saturate(round_half_even(total * scale + zero)) of int32 [N, OCb, H, W, c].

    The zero point comes for nothing with the product; ties alone may go the other way than if it
    came after rounding.

    Args:
        scale: float32 [1, OCb, 1, 1, c]; no product reaches ``MAX_ROUNDED``.
    """

    def element(i, j, h, w, k):
        steps = total[i, j, h, w, k].astype("float32") * scale[0, j, 0, 0, k] + float(zero)
        return saturated(te.round(steps).astype("int32"), dtype)

    return te.compute(total.shape, element, name="requantize")


def saturated(value: tirx.PrimExpr, dtype: str) -> tirx.PrimExpr:
    """int32 in 8 or 16 bits, by way of int16: vector units narrow to half and saturate."""
    for narrow in dict.fromkeys(("int16", dtype)):
        info = np.iinfo(narrow)
        value = te.max(te.min(value, int(info.max)), int(info.min)).astype(narrow)
    return value


def _operand(
    x: te.Tensor, pads: tuple[int, int, int, int], zero: int, layout: DotLayout
) -> te.Tensor:
    """x padded with its zero point, in the type that the products take."""
    if not any(pads) and str(x.dtype) == layout.operand:
        return x
    top, left, bottom, right = pads
    n, blocks, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        value = x[i, j, h - top, w - left, k].astype(layout.operand)
        if not any(pads):
            return value
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, value, tirx.const(zero, layout.operand))

    shape = (n, blocks, height + top + bottom, width + left + right, c)
    return te.compute(shape, element, name="pad")


def centred(x: te.Tensor, pads: tuple[int, int, int, int], zero: int) -> te.Tensor:
    """float32 x - zero of a packed tensor, with zeros around it."""
    top, left, bottom, right = pads
    n, blocks, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        value = (x[i, j, h - top, w - left, k].astype("int32") - zero).astype("float32")
        if not any(pads):
            return value
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, value, tirx.const(0.0, "float32"))

    shape = (n, blocks, height + top + bottom, width + left + right, c)
    return te.compute(shape, element, name="pad")


def pack_weight(weight: np.ndarray, layout: DotLayout, ci: int) -> np.ndarray:
    """[OC, IC, KH, KW] -> [ceil(OC/c), steps, KH, KW, c, group], or [..., parts, c, part].

    Args:
        ci: block of the activations; input channels are padded to whole blocks.

    Where a block is no whole group the taps of a row join its channels: [KH, 1] remain.
    """
    if ci % layout.group:
        weight = np.pad(weight, [(0, 0), (0, ci - weight.shape[1]), (0, 0), (0, 0)])
        weight = weight.transpose(0, 3, 1, 2).reshape(len(weight), -1, weight.shape[2], 1)
        ci = layout.group
    oc, ic, kh, kw = weight.shape
    c = layout.block
    weight = np.pad(weight, [(0, -oc % c), (0, -ic % ci), (0, 0), (0, 0)])
    steps = weight.shape[1] // layout.group
    parts = layout.parts
    weight = weight.reshape(-1, c, steps, parts, layout.group // parts, kh, kw)
    packed = weight.transpose(0, 2, 5, 6, 3, 1, 4)
    return np.ascontiguousarray(packed if parts > 1 else packed[:, :, :, :, 0])


def pack_columns(weight: np.ndarray, layout: DotLayout) -> np.ndarray:
    """[K, N] -> [ceil(N/c), K / group, c, group]."""
    depth, columns = weight.shape
    weight = np.pad(weight, [(0, 0), (0, -columns % layout.block)])
    weight = weight.reshape(depth // layout.group, layout.group, -1, layout.block)
    return np.ascontiguousarray(weight.transpose(2, 0, 3, 1))


def quantize_in_blocks(x: te.Tensor, scale: float, zero: int, dtype: str, block: int) -> te.Tensor:
    """``quantize`` of a packed tensor [N, Cb, H, W, c], in blocks of a multiple of c channels."""
    n, blocks, height, width, c = (int(d) for d in x.shape)

    def element(i, j, h, w, k):
        lane = j * block + k
        return _quantized(x[i, lane // c, h, w, lane % c], scale, zero, dtype)

    shape = (n, blocks * c // block, height, width, block)
    return te.compute(shape, element, name="quantize", attrs={LANES: c})


def quantize(x: te.Tensor, scale: float, zero: int, dtype: str) -> te.Tensor:
    """saturate(round_half_even(x / scale) + zero) of a float tensor of any shape."""
    return te.compute(
        x.shape, lambda *index: _quantized(x[index], scale, zero, dtype), name="quantize"
    )


def _quantized(x: tirx.PrimExpr, scale: float, zero: int, dtype: str) -> tirx.PrimExpr:
    info = np.iinfo(dtype)
    inverse = tirx.const(np.float32(1.0) / np.float32(scale), "float32")
    low, high = (tirx.const(float(bound - zero), "float32") for bound in (info.min, info.max))
    steps = te.max(te.min(x * inverse, high), low)
    return (te.round(steps).astype("int32") + zero).astype(dtype)


def dequantize(x: te.Tensor, scale: float, zero: int) -> te.Tensor:
    """(x - zero) * scale of an integer tensor of any shape."""
    factor = tirx.const(np.float32(scale), "float32")
    return te.compute(
        x.shape,
        lambda *index: (x[index].astype("int32") - zero).astype("float32") * factor,
        name="dequantize",
    )
