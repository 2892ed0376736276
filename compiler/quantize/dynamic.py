"""Rows that are quantised by the range of what they hold, found at run time.

A product of rows x, each with its scale s and zero point z, and constant weights w, each column
with its scale t, is

    sum x w  ~  s t sum q w' - s z t sum w'        x ~ s (q - z),  w ~ t w'

with int32 sums of bytes. The range of a row is widened to hold zero, which is a step then.
Rows are padded to whole groups of ``GROUP`` columns: instructions take several neighbours at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax, te, tirx

from compiler.passes.channel_sums import MAX_INT32
from compiler.passes.integer_ops import saturated
from compiler.passes.packed_ops import OPAQUE
from compiler.passes.packed_values import shape_of
from compiler.quantize.scales import SMALLEST_SCALE

# Of the kernel that quantises rows; its value is the dtype.
ATTRIBUTE = "edgecc.dynamic_rows"
GROUP = 16


@dataclass(frozen=True, eq=False)
class Rows:
    """A tensor [..., K] by rows: scale * integers + shift.

    Args:
        integers: [..., K, padded to whole groups]; what is behind K counts for nothing.
        scale: float32 [..., 1].
        shift: float32 [..., 1], -scale * zero point.
    """

    integers: relax.Expr
    scale: relax.Expr
    shift: relax.Expr


def fits(call: relax.Call) -> bool:
    """Whether the left operand of a matmul has rows whose sums int32 holds."""
    shape = shape_of(call.args[0])
    return len(shape) > 1 and 2 * 255 * 127 * shape[-1] <= MAX_INT32


def padded(columns: int) -> int:
    """In whole groups."""
    return -(-columns // GROUP) * GROUP


def emit_rows(builder: relax.BlockBuilder, x: relax.Expr, dtype: str) -> Rows:
    """Float rows as int8 or uint8."""
    both = builder.emit_te(
        lambda x: list(quantize_rows(x, dtype)),
        x,
        primfunc_name_hint="quantize_rows",
        primfunc_attrs={ATTRIBUTE: dtype, **OPAQUE},
    )
    return Rows(*(builder.emit(relax.TupleGetItem(both, i)) for i in range(3)))


def emit_product(
    builder: relax.BlockBuilder, rows: Rows, weights: np.ndarray, scale: np.ndarray
) -> relax.Var:
    """The float32 product of rows with int8 weights [K, N].

    Args:
        scale: of the weights, float32 of rank 0 or [N].
    """
    behind = padded(len(weights)) - len(weights)
    stored = relax.const(np.pad(weights, [(0, behind), (0, 0)]))
    sums = (weights.sum(axis=0, dtype="int64") * scale.astype("float64")).astype("float32")
    total = builder.emit(relax.op.matmul(rows.integers, stored, out_dtype="int32"))
    real = builder.emit(relax.op.astype(total, "float32"))
    real = builder.emit(relax.op.multiply(real, relax.const(scale)))
    real = builder.emit(relax.op.multiply(real, rows.scale))
    # Behind the product, so that it is part of the same epilogue.
    shift = builder.emit(relax.op.multiply(rows.shift, relax.const(sums)))
    return builder.emit(relax.op.add(real, shift))


def quantize_rows(x: te.Tensor, dtype: str) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """(integers, scale, shift) of ``Rows``, of float32 [..., K]."""
    *outer, columns = (int(d) for d in x.shape)
    info = np.iinfo(dtype)
    axis = te.reduce_axis((0, columns), name="k")
    ends = te.comm_reducer(
        lambda a, b: (te.min(a[0], b[0]), te.max(a[1], b[1])),
        lambda *dtypes: (tirx.const(0, dtypes[0]), tirx.const(0, dtypes[1])),
        name="ends",
    )

    def extremes(*index):
        value = x[(*index[:-1], axis)]
        return ends((value, value), axis=axis)

    low, high = te.compute((*outer, 1), extremes, name="ends")
    steps = tirx.const(np.float32(1 / (int(info.max) - int(info.min))), "float32")
    least = tirx.const(np.float32(SMALLEST_SCALE), "float32")
    scale = te.compute(
        (*outer, 1), lambda *i: te.max((high[i] - low[i]) * steps, least), name="scale"
    )
    inverse = te.compute((*outer, 1), lambda *i: 1.0 / scale[i], name="inverse")
    zero = te.compute(
        (*outer, 1), lambda *i: te.round(float(info.min) - low[i] * inverse[i]), name="zero_point"
    )
    shift = te.compute((*outer, 1), lambda *i: -zero[i] * scale[i], name="shift")

    def element(*index):
        *row, k = index
        one = (*row, 0)
        value = x[index]
        if padded(columns) > columns:
            value = tirx.if_then_else(k < columns, value, tirx.const(0, "float32"))
        step = te.round(value * inverse[one] + zero[one])
        return saturated(step.astype("int32"), dtype)

    integers = te.compute((*outer, padded(columns)), element, name="quantize_rows")
    return integers, scale, shift


def rows_dtype(call: relax.Call, module: tvm.IRModule) -> str | None:
    """The dtype of a call that quantises rows; None for any other call."""
    if getattr(call.op, "name", "") != "relax.call_tir":
        return None
    attrs = module[call.args[0]].attrs
    found = attrs.get(ATTRIBUTE) if attrs else None
    return None if found is None else str(found)


def quantize_rows64(x: np.ndarray, dtype: str) -> list[np.ndarray]:
    """What ``quantize_rows`` computes, without rounding before the last step."""
    info = np.iinfo(dtype)
    low = np.minimum(x.min(axis=-1, keepdims=True), 0.0)
    high = np.maximum(x.max(axis=-1, keepdims=True), 0.0)
    scale = np.maximum((high - low) / (int(info.max) - int(info.min)), SMALLEST_SCALE)
    zero = np.rint(int(info.min) - low / scale)
    behind = [(0, 0)] * (x.ndim - 1) + [(0, padded(x.shape[-1]) - x.shape[-1])]
    steps = np.rint(np.pad(x, behind) / scale) + zero
    integers = np.clip(steps, info.min, info.max).astype(dtype)
    return [integers, scale, -zero * scale]
