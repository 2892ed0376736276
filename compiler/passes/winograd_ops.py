"""Winograd's convolution F(m x m, 3 x 3) on packed layouts, for m of 2 and 4.

Each m x m tile of the result takes (m + 2)^2 instead of 9 m^2 multiplications a pair of channels:
2.25 times fewer with m = 2, 4 times with m = 4. In one dimension Y = A^T [(G g) * (B^T d)] of m + 2
values d and three taps g; in two dimensions each matrix is applied from both sides.
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).

Rounding: |error| <= 2^-24 (IC + 24) w sum over channels of max|d| max|g|, where
w = (max over rows of |A^T| (|G| 1 * |B^T| 1))^2 is 64 for m = 2 and 620 for m = 4 (a direct sum has
9 there, for both its factors). The tiles' points 0, +-1, infinity and 0, +-1/sqrt(2), +-sqrt(2),
infinity keep it small, as reciprocal points do; with 0, +-1, +-2 it would be 2304. Errors of real
networks are far from this worst case: the mean is that of a direct sum. See Barabasz et al., Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks (2018).
An infinity or NaN reaches all outputs of the tiles that read it, as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from compiler.passes.packed_ops import ANCHOR, Window

TAPS = 3
# Of sums of products of integers for m = 2: G has halves.
INTEGER_SCALE = 4
_POINTS = {
    2: (0.0, 1.0, -1.0),
    4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)),
}


def transform_weight(weight: np.ndarray, m: int) -> np.ndarray:
    """G g G^T of every pair of channels, in float64, rounded once to the weight's type.

    Args:
        weight: [OC, IC, 3, 3]; int8 for ``INTEGER_SCALE`` times that, exactly, in int16 (m = 2).
        m: outputs of a tile along one axis, 2 or 4.

    Returns:
        [(m + 2)^2, OC, IC].
    """
    g = weight_matrix(m)
    result = np.einsum("ai,ocij,bj->aboc", g, weight.astype(np.float64), g, optimize=True)
    result = result.reshape(-1, *weight.shape[:2])
    if weight.dtype == np.int8:
        return (INTEGER_SCALE * result).astype(np.int16)
    return result.astype(weight.dtype)


def pack_weight(weight: np.ndarray, m: int, c: int) -> np.ndarray:
    """Transformed weights as ``conv2d`` reads them, zeros beyond OC.

    Args:
        weight: [OC, IC, 3, 3].
        c: channels in a block, of the input as well.

    Returns:
        [(m + 2)^2, ceil(OC/c), IC/ci, ci, c]; ci is c where that divides IC, else 1. Integers get
        zeros beyond IC, too, so that it always does.
    """
    value = transform_weight(weight, m)
    points, oc, ic = value.shape
    further = -ic % c if value.dtype == np.int16 else 0
    ci = c if (ic + further) % c == 0 else 1
    value = np.pad(value, ((0, 0), (0, -oc % c), (0, further)))
    value = value.reshape(points, -1, c, (ic + further) // ci, ci).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(value)


def weight_matrix(m: int) -> np.ndarray:
    """G of F(m, 3), [m + 2, 3]: powers of each point over the product of its distances."""
    points = _POINTS[m]
    rows = [
        [x**k / math.prod(x - y for y in points if y != x) for k in range(TAPS)] for x in points
    ]
    return np.array([*rows, [0.0, 0.0, 1.0]])


def tiles_of(window: Window, height: int, width: int, m: int) -> tuple[int, int]:
    """Tiles (rows, columns) that cover the result for an input of extents (height, width)."""
    oh, ow = window.output_size(height, width)
    return -(-oh // m), -(-ow // m)


def conv2d(x: te.Tensor, weight: te.Tensor, window: Window, m: int, zero: int = 0) -> te.Tensor:
    """Convolution with a 3 x 3 window of stride and dilation 1.

    Args:
        x: [N, IC/ci, H, W, ci]; channels beyond the true IC are never read, or bytes. Bytes for
            weights of floats are converted, and may lie in larger blocks than c.
        weight: [(m + 2)^2, OCb, ICb, ci, c], or [(m + 2)^2, OCb, IC, 1, c] where ci does not
            divide the channels; see ``transform_weight``. int16 for sums of integers.
        zero: zero point of bytes.

    Returns:
        [N, OCb, OH, OW, c]; int32 for integers, ``INTEGER_SCALE`` times the sums of x, padded with
        zero; else sums of x - zero.
    """
    n, blocks, height, width, block = (int(d) for d in x.shape)
    _, oc_blocks, ic_outer, ic_inner, c = (int(d) for d in weight.shape)
    rows, columns = tiles_of(window, height, width, m)
    a = m + TAPS - 1
    dtype = str(weight.dtype)
    sums = "int32" if dtype == "int16" else dtype
    extents = (rows * m + 2, columns * m + 2)
    if "int8" in str(x.dtype) and dtype != "int16":
        blocks, block = -(-ic_outer * ic_inner // c), c
        padded = _centre_in_tiles(x, window, (n, blocks, *extents, block), zero, dtype)
    else:
        padded = _pad_to_tiles(x, window, *extents, tirx.const(zero, dtype))
    # Neighbouring tiles share two columns of it.
    half = te.compute(
        (n, blocks, rows, a, columns * m + 2, block),
        lambda i, j, t, e, w, lane: _input_transform(
            m, e, [padded[i, j, t * m + r, w, lane] for r in range(a)]
        ),
        name="winograd_rows",
    )
    tiles = te.compute(
        (a, a, n, blocks, rows * columns, block),
        lambda e, f, i, j, p, lane: _input_transform(
            m, f, [half[i, j, p // columns, e, p % columns * m + k, lane] for k in range(a)]
        ),
        name="winograd_input",
    )
    r_outer = te.reduce_axis((0, ic_outer), name="ic_outer")
    r_inner = te.reduce_axis((0, ic_inner), name="ic_inner")

    def product(e, f, i, j, p, k):
        whole = ic_inner == block
        j_in, lane = (r_outer, r_inner) if whole else (r_outer // block, r_outer % block)
        value = tiles[e, f, i, j_in, p, lane].astype(sums)
        factor = weight[e * a + f, j, r_outer, r_inner, k].astype(sums)
        return te.sum(value * factor, axis=[r_outer, r_inner])

    products = te.compute(
        (a, a, n, oc_blocks, rows * columns, c),
        product,
        name="winograd_products",
        attrs={ANCHOR: "winograd"},
    )
    return _output(products, (n, oc_blocks, *window.output_size(height, width), c), columns, m)


def _pad_to_tiles(
    x: te.Tensor, window: Window, rows: int, columns: int, zero: tirx.PrimExpr
) -> te.Tensor:
    """The input in zero's type, with a border of it, rows x columns large: what tiles read."""
    n, blocks, height, width, block = (int(d) for d in x.shape)
    top, left, _, _ = window.pads

    def element(i, j, h, w, k):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        value = x[i, j, h - top, w - left, k].astype(zero.ty.dtype)
        return tirx.if_then_else(inside, value, zero)

    return te.compute((n, blocks, rows, columns, block), element, name="pad")


def _centre_in_tiles(
    x: te.Tensor, window: Window, shape: tuple[int, ...], zero: int, dtype: str
) -> te.Tensor:
    """Bytes - zero as floats, with a border of zeros, in blocks of other sizes."""
    _, _, height, width, size = (int(d) for d in x.shape)
    block = shape[-1]
    top, left, _, _ = window.pads

    def element(i, j, h, w, k):
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        lane = j * block + k
        value = x[i, lane // size, h - top, w - left, lane % size]
        centred = (value.astype("int32") - zero).astype(dtype)
        return tirx.if_then_else(inside, centred, tirx.const(0, dtype))

    return te.compute(shape, element, name="pad")


def _output(
    products: te.Tensor, shape: tuple[int, int, int, int, int], columns: int, m: int
) -> te.Tensor:
    """A^T M A of every tile, and the tiles cut to the result."""
    n, oc_blocks, oh, _, c = shape
    a = m + TAPS - 1
    rows = -(-oh // m)
    half = te.compute(
        (n, oc_blocks, rows, m, columns, a, c),
        lambda i, j, t, e, s, k, lane: _output_transform(
            m, e, [products[r, k, i, j, t * columns + s, lane] for r in range(a)]
        ),
        name="winograd_output_rows",
    )
    tiles = te.compute(
        (n, oc_blocks, rows, columns, m, m, c),
        lambda i, j, t, s, e, f, lane: _output_transform(
            m, f, [half[i, j, t, e, s, k, lane] for k in range(a)]
        ),
        name="winograd_output",
    )
    return te.compute(
        shape,
        lambda i, j, h, w, lane: tiles[i, j, h // m, w // m, h % m, w % m, lane],
        name="winograd_crop",
    )


def _input_transform(m: int, row: tirx.PrimExpr, d: Sequence[tirx.PrimExpr]) -> tirx.PrimExpr:
    """One row of B^T d; neighbouring rows share their halves, which LLVM computes once."""
    f = _constants(d[0])
    if m == 2:
        return _select(row, [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]])
    near, far = f(math.sqrt(0.5)), f(math.sqrt(2.0))
    even_near, odd_near = d[4] - f(2.0) * d[2], (d[3] - f(2.0) * d[1]) * near
    even_far, odd_far = d[4] - f(0.5) * d[2], (d[3] - f(0.5) * d[1]) * far
    rows = [
        (d[0] + d[4]) - f(2.5) * d[2],
        even_near + odd_near,
        even_near - odd_near,
        even_far + odd_far,
        even_far - odd_far,
        (d[1] + d[5]) - f(2.5) * d[3],
    ]
    return _select(row, rows)


def _output_transform(m: int, row: tirx.PrimExpr, v: Sequence[tirx.PrimExpr]) -> tirx.PrimExpr:
    """One row of A^T v."""
    f = _constants(v[0])
    even, odd = v[1] + v[2], v[1] - v[2]
    if m == 2:
        return _select(row, [v[0] + even, odd + v[3]])
    even_far, odd_far = v[3] + v[4], v[3] - v[4]
    near, far = math.sqrt(0.5), math.sqrt(2.0)
    rows = [
        v[0] + (even + even_far),
        f(near) * odd + f(far) * odd_far,
        f(0.5) * even + f(2.0) * even_far,
        v[5] + (f(near**3) * odd + f(far**3) * odd_far),
    ]
    return _select(row, rows)


def _constants(like: tirx.PrimExpr):
    dtype = str(like.dtype)
    return lambda value: tirx.const(value, dtype)


def _select(index: tirx.PrimExpr, values: Sequence[tirx.PrimExpr]) -> tirx.PrimExpr:
    """values[index]; the schedule unrolls the index, so that one of them remains."""
    result = values[-1]
    for i, value in reversed(list(enumerate(values[:-1]))):
        result = tirx.Select(index == i, value, result)
    return result
