"""Tensor expressions of products with weights that are stored in groups along the reduction.

Weights of 4 bits lie as words of 32 bits: a lane (column) of a word holds those of eight steps, the
first in the lowest bits. One instruction masks a value out where it lies, 2^(4 i) times too large
for i = 0..3, and the activations are made smaller by as much before; the upper half of a word is
shifted down first. So eight values a lane cost nine instructions beside their conversion to float.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import te, tirx

from compiler.passes.integer_ops import STORED_WEIGHTS
from compiler.passes.packed_ops import ANCHOR
from compiler.quantize.groups import Groups

# Values of 4 bits in a word, and in the half of it that masks reach.
WORD = 8
_HALF = 4
# Rows up to which each of them multiplies weights as they are read.
MOST_ROWS = 8
# Blocks of columns that a tile can have.
TILE = 4
# Blocks that schedules look for.
PARTIAL, ROWS, OFFSETS = "group_sum", "group_rows", "group_offsets"
KIND = "matmul_grouped"


def pack(weights: Groups, c: int) -> list[np.ndarray]:
    """The operands of ``matmul`` and ``wide_matmul``.

    Returns:
        words [blocks, G, steps, c] (int32 of eight steps for 4 bits, or int8), scales float32
        [blocks, G, c] and, where they differ, zero points int8 [blocks, G, c].
    """
    groups = len(weights.scale)
    padding = groups * weights.group - len(weights.integers)
    codes = np.pad(weights.integers.astype("int8"), [(0, padding), (0, 0)])
    tables = [_columns(codes.reshape(groups, weights.group, -1), c)]
    if weights.bits == 4:
        tables = [_words(tables[0])]
    tables.append(_columns(weights.scale, c))
    if weights.common_zero is None:
        tables.append(_columns(weights.zero_point, c))
    return tables


def _columns(values: np.ndarray, c: int) -> np.ndarray:
    """[..., N] -> [blocks, ..., c], zeros beyond N.

    There are as many blocks as make whole tiles of columns, where they are more than one.
    """
    *outer, columns = values.shape
    tile = TILE * c if columns > TILE * c else c
    values = np.pad(values, [(0, 0)] * len(outer) + [(0, -columns % tile)])
    values = np.moveaxis(values.reshape(*outer, -1, c), -2, 0)
    return np.ascontiguousarray(values)


def _words(codes: np.ndarray) -> np.ndarray:
    """[..., K, c] of 0 to 15 -> int32 [..., K/8, c]."""
    *outer, depth, c = codes.shape
    split = codes.astype("uint32").reshape(*outer, depth // WORD, WORD, c)
    shifts = (4 * np.arange(WORD, dtype="uint32"))[:, None]
    return np.bitwise_or.reduce(split << shifts, axis=-2).view("int32")


def matmul(
    a: te.Tensor,
    words: te.Tensor,
    scale: te.Tensor,
    zero: te.Tensor | None,
    weights: Groups,
) -> te.Tensor:
    """Product for few rows: integers times rows, summed up group by group and then scaled.

    Args:
        a: float32 [..., M, K].
        words, scale, zero: see ``pack``.
        weights: what they were packed from.

    Returns:
        float32 [..., M, N].
    """
    *batch, rows, depth = (int(d) for d in a.shape)
    blocks, groups, steps, c = (int(d) for d in words.shape)
    per = weights.group // steps
    padded = groups * weights.group

    def row(*index):
        *outer, k = index
        value = a[(*outer, k)]
        if per > 1:
            value = value * _reciprocal(k)
        if padded == depth:
            return value
        return tirx.if_then_else(k < depth, value, tirx.const(0.0, "float32"))

    x = te.compute((*batch, rows, padded), row, name=ROWS)
    step = te.reduce_axis((0, steps), name="step")
    part = te.reduce_axis((0, per), name="part")

    def partial(*index):
        *outer, m, j, g, lane = index
        word = words[j, g, step, lane]
        value = word if per == 1 else _masked(word, part.var.astype("int32"))
        left = x[(*outer, m, g * weights.group + step * per + part)]
        return te.sum(left * value.astype("float32"), axis=[step, part])

    sums = te.compute((*batch, rows, blocks, groups, c), partial, name=PARTIAL)
    g = te.reduce_axis((0, groups), name="g")
    offset = _offsets(a, zero, weights)

    def total(*index):
        *outer, m, j, lane = index
        return te.sum(
            (sums[(*outer, m, j, g, lane)] - offset((*outer, m), j, g, lane)) * scale[j, g, lane],
            axis=[g],
        )

    product = te.compute((*batch, rows, blocks, c), total, name="matmul", attrs={ANCHOR: KIND})
    return te.compute(
        (*batch, rows, weights.columns),
        lambda *index: product[(*index[:-1], index[-1] // c, index[-1] % c)],
        name="matmul_unpack",
    )


def _offsets(a: te.Tensor, zero: te.Tensor | None, weights: Groups) -> Callable:
    """What the zero points of a group's weights add to its sum of products."""
    if weights.common_zero == 0:
        return lambda row, j, g, lane: tirx.const(0.0, "float32")
    *outer, depth = (int(d) for d in a.shape)
    k = te.reduce_axis((0, weights.group), name="k")

    def total(*index):
        *row, g = index
        position = g * weights.group + k
        value = a[(*row, position)]
        if depth % weights.group:
            value = tirx.if_then_else(position < depth, value, tirx.const(0.0, "float32"))
        return te.sum(value, axis=[k])

    sums = te.compute((*outer, len(weights.scale)), total, name=OFFSETS)
    if zero is None:
        factor = tirx.const(float(weights.common_zero or 0), "float32")
        return lambda row, j, g, lane: sums[(*row, g)] * factor
    return lambda row, j, g, lane: sums[(*row, g)] * zero[j, g, lane].astype("float32")


def wide_matmul(
    a: te.Tensor,
    words: te.Tensor,
    scale: te.Tensor,
    zero: te.Tensor | None,
    weights: Groups,
) -> te.Tensor:
    """Product for many rows: a panel of weights becomes floats once; arguments of ``matmul``."""
    *batch, rows, depth = (int(d) for d in a.shape)
    blocks, _, steps, c = (int(d) for d in words.shape)
    per = weights.group // steps

    def real(j, k, lane):
        g = k // weights.group
        word = words[j, g, k % weights.group // per, lane]
        if per > 1:
            word = (word >> (k % WORD * 4).astype("int32")) & 15
        value = word.astype("int32")
        if zero is not None:
            value = value - zero[j, g, lane].astype("int32")
        elif weights.common_zero:
            value = value - weights.common_zero
        return value.astype("float32") * scale[j, g, lane]

    panel = te.compute((blocks, depth, c), real, name=STORED_WEIGHTS)
    k = te.reduce_axis((0, depth), name="k")

    def tile(*index):
        *outer, m, j, lane = index
        return te.sum(a[(*outer, m, k)] * panel[j, k, lane], axis=[k])

    product = te.compute((*batch, rows, blocks, c), tile, name="matmul", attrs={ANCHOR: "matmul"})
    return te.compute(
        (*batch, rows, weights.columns),
        lambda *index: product[(*index[:-1], index[-1] // c, index[-1] % c)],
        name="matmul_unpack",
    )


def _masked(word: tirx.PrimExpr, part: tirx.PrimExpr) -> tirx.PrimExpr:
    """2^(4 (part % 4)) times the value of a part."""
    half = word >> (part // _HALF * (4 * _HALF))
    return half & (tirx.const(15, "int32") << (part % _HALF * 4))


def _reciprocal(k: tirx.PrimExpr) -> tirx.PrimExpr:
    """2^-(4 (k % 4)); a constant once the loop over k is unrolled or in vectors."""
    power = tirx.const(1, "int32") << (k % _HALF * 4).astype("int32")
    return tirx.const(1.0, "float32") / power.astype("float32")
