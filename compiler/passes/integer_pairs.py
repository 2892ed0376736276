"""Where one instruction multiplies two pixels or rows by two channels (smmla, bfmmla)."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from compiler.passes.packed_ops import ANCHOR, Window

# Name of the block that brings the inputs of two pixels or rows together.
PAIRS = "pairs"
KIND = "conv2d_integer_pairs"
MATMUL = "matmul_integer_pairs"


def conv2d(
    padded: te.Tensor, weight: te.Tensor, window: Window, size: Sequence[int], dtype: str
) -> te.Tensor:
    """Sums of a convolution of pairs of pixels, each pair's as 2 x 2 of pixels and channels.

    Args:
        padded: [N, ICb, H, W, ci]; ci as ``integer_ops.conv2d`` wants it.
        weight: [OCb, steps, KH, KW, c, group].
        size: OH, OW.
        dtype: of the sums.

    Returns:
        [N, OCb, OH, OW, c]. The partner of the last pixel of an odd row is that pixel itself.
    """
    n, _, _, _, ci = (int(d) for d in padded.shape)
    oc_blocks, steps, kh, kw, c, group = (int(d) for d in weight.shape)
    height, width = size
    (sh, sw), (dh, dw) = window.strides, window.dilation
    joins = ci % group != 0
    lanes = steps * group if joins else ci
    per_block, count = lanes // group, -(-width // 2)

    def element(i, b, h, pair, row, tap, pixel, lane):
        w = pair * 2 + pixel
        if width % 2:
            w = te.min(w, width - 1)
        line, column = h * sh + row * dh, w * sw + tap * dw
        if joins:
            return padded[i, 0, line, column + lane // ci, lane % ci]
        return padded[i, b, line, column, lane]

    shape = (n, steps // per_block, height, count, kh, kw, 2, lanes)
    pairs = te.compute(shape, element, name=PAIRS)
    step = te.reduce_axis((0, steps), name="step")
    row = te.reduce_axis((0, kh), name="kh")
    tap = te.reduce_axis((0, kw), name="kw")
    inner = te.reduce_axis((0, group), name="inner")

    def products(i, j, h, pair, channels, pixel, channel):
        lane = step % per_block * group + inner
        value = pairs[i, step // per_block, h, pair, row, tap, pixel, lane]
        factor = weight[j, step, row, tap, channels * 2 + channel, inner]
        product = value.astype(dtype) * factor.astype(dtype)
        return te.sum(product, axis=[step, row, tap, inner])

    total = te.compute(
        (n, oc_blocks, height, count, c // 2, 2, 2), products, name="conv2d", attrs={ANCHOR: KIND}
    )

    def single(i, j, h, w, k) -> tirx.PrimExpr:
        return total[i, j, h, w // 2, k // 2, w % 2, k % 2]

    return te.compute((n, oc_blocks, height, width, c), single, name="singles")


def matmul(a: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """Sums of a matrix product, of each pair of rows and of columns as 2 x 2.

    Args:
        a: [..., M, K]; K is a multiple of the group.
        weight: [blocks, K / group, c, group].
        dtype: of the sums.

    Returns:
        [..., ceil(M / 2), blocks, c / 2, 2, 2]: of rows, then of columns. The partner of the last
        of an odd number of rows is that row itself.
    """
    *batch, rows, _ = (int(d) for d in a.shape)
    blocks, steps, c, group = (int(d) for d in weight.shape)
    count = -(-rows // 2)

    def element(*index):
        *outer, pair, step, side, lane = index
        row = pair * 2 + side
        if rows % 2:
            row = te.min(row, rows - 1)
        return a[(*outer, row, step * group + lane)]

    pairs = te.compute((*batch, count, steps, 2, group), element, name=PAIRS)
    step = te.reduce_axis((0, steps), name="step")
    inner = te.reduce_axis((0, group), name="inner")

    def products(*index):
        *outer, pair, block, columns, row, column = index
        value = pairs[(*outer, pair, step, row, inner)].astype(dtype)
        factor = weight[block, step, columns * 2 + column, inner].astype(dtype)
        return te.sum(value * factor, axis=[step, inner])

    shape = (*batch, count, blocks, c // 2, 2, 2)
    return te.compute(shape, products, name="matmul", attrs={ANCHOR: MATMUL})
