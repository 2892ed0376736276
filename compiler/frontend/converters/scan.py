"""Cumulative sums and products, as reductions over what comes before each element.

Rows longer than a block are scanned in two levels, of about sqrt(n) comparisons an element.
"""

from __future__ import annotations

import math

from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import Node, reduce_axis

_BLOCK = 128


@converter("CumSum", "CumProd")
def cumulative(node: Node) -> relax.Expr:
    dims = node.shape(0)
    axis = node.axis_in(int(node.const(1, "axis").reshape(-1)[0]), len(dims))
    product = node.op == "CumProd"
    exclusive, back = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))
    outer, extent, inner = math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])
    if extent <= _BLOCK:
        x = node.emit(relax.op.reshape(node[0], (outer, 1, extent, inner)))
        result = node.te(_scan, x, 2, product, exclusive, back, name="scan")
        return relax.op.reshape(result, dims)
    size = math.isqrt(extent - 1) + 1
    blocks = -(-extent // size)
    x = node.emit(relax.op.reshape(node[0], (outer, extent, inner)))
    if blocks * size > extent:
        widths = [0, 0, 0, blocks * size - extent, 0, 0]
        x = node.emit(relax.op.nn.pad(x, widths, "constant", float(product)))
    x = node.emit(relax.op.reshape(x, (outer, blocks, size, inner)))
    local = node.te(_scan, x, 2, product, exclusive, back, name="scan")
    totals = node.emit((relax.op.prod if product else relax.op.sum)(x, [2], True))
    before = node.te(_scan, totals, 1, product, True, back, name="scan")
    combined = (relax.op.multiply if product else relax.op.add)(local, before)
    whole = node.emit(relax.op.reshape(combined, (outer, blocks * size, inner)))
    if blocks * size > extent:
        whole = node.emit(relax.op.strided_slice(whole, [1], [0], [extent]))
    return relax.op.reshape(whole, dims)


def _scan(x: te.Tensor, axis: int, product: bool, exclusive: bool, back: bool) -> te.Tensor:
    """Folds, for every position along ``axis``, all elements up to it (or from it on: ``back``)."""
    source = reduce_axis(x.shape[axis], "source")
    combine = (lambda a, b: a * b) if product else (lambda a, b: a + b)
    identity = tirx.const(int(product), x.dtype)
    fold = te.comm_reducer(combine, lambda dtype: tirx.const(int(product), dtype), name="fold")

    def element(*i: tirx.Expr) -> tirx.Expr:
        low, high = (i[axis], source) if back else (source, i[axis])
        counted = low < high if exclusive else low <= high
        value = x(*i[:axis], source, *i[axis + 1 :])
        return fold(tirx.Select(counted, value, identity), axis=source)

    return te.compute(x.shape, element, name="scan")
