"""Integer products of two tensors that are both known at run time alone, as attention has them.

    sum (a - za) (b - zb)  =  sum a b  -  za sum b  -  zb sum a  +  K za zb

The right operand is packed at run time into the layout that constant weights have, [..., blocks,
K / group, c, group]. Where its depth lies together in memory (K of Q K^T, before it is transposed)
groups move whole, else (V of P V) neighbouring rows interleave; either way a transposition before
it becomes part of the copy. The sums of its columns are a product with ones, by the same schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from compiler.passes.channel_sums import MAX_INT32
from compiler.passes.dot_layout import DotLayout
from compiler.passes.integer_ops import broadcast_index, products
from compiler.passes.packed_ops import FUSABLE, OPAQUE
from compiler.passes.packed_values import constant_of, shape_of
from compiler.quantize.qdq import Quantum

# Of the block that packs a right operand: whether a group's neighbours are neighbours before, too.
WHOLE_GROUPS = "edgecc.whole_groups"
# Whether a block's columns are there, and neighbours, unless a group's are.
WHOLE_BLOCKS = "edgecc.whole_blocks"
# dtype of bytes -> what makes it of the other, when added.
SHIFTS = {"int8": -128, "uint8": 128}


@dataclass(frozen=True, eq=False)
class Operand:
    """Integers and their zero point."""

    expr: relax.Expr
    zero: int

    @staticmethod
    def of(stored: relax.Expr, quantum: Quantum) -> Operand:
        return Operand(stored, int(quantum.zero_point))

    @property
    def dtype(self) -> str:
        return str(self.expr.ty.dtype)

    def shift(self, wanted: str) -> int:
        """What makes them ``wanted``."""
        return 0 if self.dtype == wanted else SHIFTS[wanted]


def layout(left: Operand, right: Operand, dots: list[DotLayout]) -> DotLayout | None:
    """The layout for a product of two operands; None where floats are as fast, or int32 too small.

    Only what multiplies any four bytes serves: sums of two in int16 hold them for some weights.
    """
    exprs = left.expr, right.expr
    shapes = [shape_of(e) for e in exprs]
    if any(constant_of(e) is not None or str(e.ty.dtype) not in SHIFTS for e in exprs):
        return None
    if min(map(len, shapes)) < 2 or any(0 in shape for shape in shapes):
        return None
    depth, columns = shapes[1][-2:]
    if 4 * 255 * 128 * depth > MAX_INT32:
        return None
    found = next((d for d in dots if d.group == 4 and d.most_neighbours is None), None)
    return found if found is not None and _pays(depth, columns, found.block) else None


def _pays(depth: int, columns: int, block: int) -> bool:
    """Whether bytes take fewer instructions for each result, as counted on Cortex-A76.

    Results of a block that is not whole are stored one by one, which costs most there.
    """
    in_bytes = 1.5 + depth / 9 + 10 * (columns % block) / columns
    return in_bytes < 2.5 + 0.45 * depth


def emit(
    builder: relax.BlockBuilder,
    left: Operand,
    right: Operand,
    dot: DotLayout,
    scale: float | None = None,
) -> relax.Var:
    """The product [..., M, N]: float32 times ``scale``, or int32 without one."""
    rows, zero_left = _rows(builder, left, dot)
    source, axes = _untransposed(builder, right.expr)
    shift = right.shift("int8")
    zero_right = right.zero + shift
    depth, columns = shape_of(right.expr)[-2:]
    packed = builder.emit_te(
        lambda b: pack_columns(b, axes, shift, dot),
        source,
        primfunc_name_hint="pack_product",
        primfunc_attrs=OPAQUE,
    )
    terms = []
    if zero_left:
        terms.append(_column_terms(builder, packed, dot, depth, columns, zero_left, zero_right))
    if zero_right:
        terms.append(_row_terms(builder, rows, zero_right))

    def compute(a: te.Tensor, b: te.Tensor, *terms: te.Tensor) -> te.Tensor:
        return _scaled(products(a, b, dot.sums), terms, scale, columns, dot)

    return _emit_product(builder, compute, rows, packed, *terms)


def _emit_product(builder: relax.BlockBuilder, compute: Callable, *args: relax.Expr) -> relax.Var:
    return builder.emit_te(compute, *args, primfunc_name_hint="matmul", primfunc_attrs=FUSABLE)


def _rows(builder: relax.BlockBuilder, left: Operand, dot: DotLayout) -> tuple[relax.Expr, int]:
    """The left operand in whole groups as the layout's bytes, and its zero point."""
    shift = left.shift(dot.activation)
    *outer, depth = shape_of(left.expr)
    if shift or depth % dot.group:
        whole = -(-depth // dot.group) * dot.group

        def element(x: te.Tensor) -> te.Tensor:
            def value(*index):
                stored, k = x[index], index[-1]
                if shift:
                    stored = (stored.astype("int32") + shift).astype(dot.activation)
                zero = tirx.const(0, dot.activation)
                return stored if whole == depth else tirx.if_then_else(k < depth, stored, zero)

            return te.compute((*outer, whole), value, name="whole_groups")

        made = builder.emit_te(element, left.expr, primfunc_name_hint="whole_groups")
        return made, left.zero + shift
    return left.expr, left.zero


def _untransposed(
    builder: relax.BlockBuilder, expr: relax.Expr
) -> tuple[relax.Expr, tuple[int, ...]]:
    """A tensor and the order of axes that makes ``expr`` of it."""
    rank = len(shape_of(expr))
    same = expr, tuple(range(rank))
    call = _definition(builder, expr)
    while _is(call, "relax.reshape") and shape_of(call.args[0]) == shape_of(expr):
        call = _definition(builder, call.args[0])
    if not _is(call, "relax.permute_dims"):
        return same
    axes = call.attrs.axes
    axes = tuple(reversed(range(rank))) if axes is None else tuple(int(a) % rank for a in axes)
    # What lies together must be a group's neighbours or a block's columns.
    return (call.args[0], axes) if axes.index(rank - 1) >= rank - 2 else same


def _definition(builder: relax.BlockBuilder, expr: relax.Expr) -> Any:
    return builder.lookup_binding(expr) if isinstance(expr, relax.Var) else None


def _is(value: Any, name: str) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == name


def pack_columns(b: te.Tensor, axes: tuple[int, ...], shift: int, layout: DotLayout) -> te.Tensor:
    """int8 [..., ceil(N/c), ceil(K/group), c, group] of bytes, transposed by ``axes`` [..., K, N].

    Lanes beyond N and steps beyond K hold whatever: nobody reads the sums of those, and the left
    operand is zero there.

    Args:
        shift: to be added.
    """
    rank = len(axes)
    *batch, depth, columns = (int(b.shape[a]) for a in axes)
    group, c = layout.group, layout.block
    blocks, steps = -(-columns // c), -(-depth // group)
    depth_lies_together = axes[-2] == rank - 1

    def element(*index):
        *outer, block, step, inner, lane = index
        # Other rows may be read in the place of those that are none, but nothing beside a row.
        k, n = step * group + inner, block * c + lane
        inside = n < columns if columns % c else None
        if depth_lies_together:
            n = te.min(n, columns - 1) if columns % c else n
            inside = k < depth if depth % group else None
        elif depth % group:
            k = te.min(k, depth - 1)
        place = [None] * rank
        for axis, position in zip(axes, (*outer, k, n), strict=True):
            place[axis] = position
        value = b[tuple(place)]
        if shift:
            value = (value.astype("int32") + shift).astype("int8")
        zero = tirx.const(0, "int8")
        return value if inside is None else tirx.if_then_else(inside, value, zero)

    rows = te.compute((*batch, blocks, steps, group, c), element, name="rows")
    attrs = {
        WHOLE_GROUPS: int(depth_lies_together and depth % group == 0),
        WHOLE_BLOCKS: int(columns % c == 0),
    }
    return te.compute(
        (*batch, blocks, steps, c, group),
        lambda *i: rows[(*i[:-2], i[-1], i[-2])],
        name="pack_product",
        attrs=attrs,
    )


def _column_terms(
    builder: relax.BlockBuilder,
    packed: relax.Expr,
    dot: DotLayout,
    depth: int,
    columns: int,
    zero_left: int,
    zero_right: int,
) -> relax.Var:
    """int32 [..., 1, N]: za (K zb - sum b)."""
    *batch, _, steps, _, group = shape_of(packed)
    ones = np.zeros((*[1] * len(batch), 1, steps * group), dot.activation)
    ones[..., :depth] = 1

    def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        sums = products(a, b, dot.sums)
        return te.compute(
            (*sums.shape[:-2], columns),
            lambda *i: (depth * zero_right - _element(sums, i, dot)) * zero_left,
            name="column_terms",
        )

    return _emit_product(builder, compute, relax.const(ones), packed)


def _row_terms(builder: relax.BlockBuilder, rows: relax.Expr, zero_right: int) -> relax.Var:
    """int32 [..., M, 1]: -zb sum a."""
    *outer, depth = shape_of(rows)

    def compute(a: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, depth), name="k")
        total = te.compute(
            (*outer, 1), lambda *i: te.sum(a[(*i[:-1], k)].astype("int32"), axis=k), name="row_sums"
        )
        return te.compute(total.shape, lambda *i: total[i] * -zero_right, name="row_terms")

    return builder.emit_te(compute, rows, primfunc_name_hint="row_terms", primfunc_attrs=OPAQUE)


def _element(sums: te.Tensor, index: tuple, layout: DotLayout) -> tirx.PrimExpr:
    *outer, n = index
    return sums[(*outer, n // layout.block, n % layout.block)]


def _scaled(
    sums: te.Tensor,
    terms: tuple[te.Tensor, ...],
    scale: float | None,
    columns: int,
    layout: DotLayout,
) -> te.Tensor:
    """(sums + terms) * scale [..., M, N]; terms have extents of 1 where they broadcast."""
    shape = [*(int(d) for d in sums.shape[:-2]), columns]

    def real(*index):
        total = _element(sums, index, layout)
        for term in terms:
            total = total + term[tuple(broadcast_index(index, shape, [int(d) for d in term.shape]))]
        return total if scale is None else total.astype("float32") * tirx.const(scale, "float32")

    return te.compute(shape, real, name="matmul_unpack")
