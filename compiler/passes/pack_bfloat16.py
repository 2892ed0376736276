"""Products of bfloat16 in the layouts that their instructions take.

Before:  conv2d(x, w), matmul(a, w)     x, a, w of bfloat16, results of float32
After:   sums of products of neighbouring channels or columns, packed as ``dot_layout`` says
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from tvm import relax, te, tirx

from compiler.passes import integer_ops
from compiler.passes.dot_layout import BFLOAT16, DotLayout, bfloat16_layouts
from compiler.passes.packed_ops import FUSABLE, Window
from compiler.passes.packed_values import Packed, pack, unpack
from compiler.target import Target


def is_bfloat16(expr: relax.Expr) -> bool:
    """Whether a tensor is of bfloat16."""
    return str(getattr(expr.ty, "dtype", "")) == BFLOAT16


def convolution_layout(target: Target, shape: tuple[int, ...]) -> DotLayout | None:
    """How a convolution with a result of a shape multiplies; None where the target cannot."""
    point = math.prod(shape[2:]) == 1
    layouts = bfloat16_layouts(target)
    return next((d for d in layouts if not (point and d.pairs_pixels)), None)


def matmul_layout(target: Target, shape: tuple[int, ...]) -> DotLayout | None:
    """How a product of a matrix [..., M, K] multiplies; None where the target cannot."""
    *_, rows, depth = shape
    for dot in bfloat16_layouts(target):
        if depth % dot.group == 0 and (rows > 1 or not dot.pairs_pixels):
            return dot
    return None


def emit_rounded(builder: relax.BlockBuilder, data: Packed) -> Packed:
    """Emit a packed tensor as bfloat16, with zeros in lanes beyond the last channel.

    These may hold infinities and what is no number, and meet weights of zero.
    """
    channels, block = data.shape[1], data.block
    ragged = data.order is None and channels % block != 0

    def rounded(x: te.Tensor) -> te.Tensor:
        def element(n, b, h, w, k):
            value = x[n, b, h, w, k].astype(BFLOAT16)
            if not ragged:
                return value
            zero = tirx.const(0.0, BFLOAT16)
            return tirx.Select(b * block + k < channels, value, zero)

        return te.compute(x.shape, element, name="rounded")

    return replace(data, expr=builder.emit_te(rounded, data.expr, primfunc_name_hint="rounded"))


def emit_conv2d(
    builder: relax.BlockBuilder,
    data: Packed | relax.Expr,
    weight: np.ndarray,
    window: Window,
    shape: tuple[int, ...],
    dot: DotLayout,
) -> Packed:
    """Emit an ungrouped convolution.

    Args:
        data: of bfloat16.
        weight: bfloat16 [OC, IC, (KH,) KW].
        shape: the logical shape of the result, which is of float32.
    """
    weight = weight.reshape(*weight.shape[:2], *window.kernel)
    x = _input(builder, data, dot, weight.shape[1], window)
    pointwise = window == Window((1, 1), (1, 1), (0, 0, 0, 0), window.dilation)
    x = x.viewed(builder, pointwise)
    result = builder.emit_te(
        lambda x, weight: integer_ops.conv2d(x, weight, None, window, 0, dot),
        x.expr,
        relax.const(integer_ops.pack_weight(weight, dot, x.block)),
        primfunc_name_hint="conv2d",
        primfunc_attrs=FUSABLE,
    )
    return Packed(result, shape, dot.block, pointwise)


def _input(
    builder: relax.BlockBuilder,
    data: Packed | relax.Expr,
    dot: DotLayout,
    channels: int,
    window: Window,
) -> Packed:
    """Channels in whole groups."""
    if isinstance(data, Packed):
        if data.order is None and data.block % dot.group == 0:
            return data
        data = unpack(builder, data)
    return pack(builder, data, dot.input_block(channels, window.dilation[1]))


def emit_matmul(
    builder: relax.BlockBuilder, left: relax.Expr, weight: np.ndarray, dot: DotLayout
) -> relax.Expr:
    """Emit left [..., M, K] @ weight [K, N], of bfloat16; the result is of float32."""
    columns = weight.shape[1]
    return builder.emit_te(
        lambda a, weight: integer_ops.matmul(a, weight, None, None, columns, dot),
        left,
        relax.const(integer_ops.pack_columns(weight, dot)),
        primfunc_name_hint="matmul",
        primfunc_attrs=FUSABLE,
    )
