"""Reductions along axes."""

from __future__ import annotations

import math

from tvm import relax, te, tirx

from compiler.frontend.converters.arithmetic import cast
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import Node, reduce_axis

_PLAIN = {
    "ReduceSum": relax.op.sum,
    "ReduceMax": relax.op.max,
    "ReduceMin": relax.op.min,
    "ReduceProd": relax.op.prod,
}


def _axes(node: Node) -> list[int] | None:
    """The axes to reduce; an empty list means that nothing is reduced."""
    axes = node.axes(1, node.rank(0))
    if axes:
        return axes
    return [] if node.attr("noop_with_empty_axes", 0) else list(range(node.rank(0)))


@converter(*_PLAIN)
def plain(node: Node) -> relax.Expr:
    axes, keep = _axes(node), bool(node.attr("keepdims", 1))
    if not axes:
        return node[0]
    dtype = node.dtype(0)
    if dtype == "bool":  # and, or as minimum, maximum of 0 and 1
        return cast(_PLAIN[node.op](relax.op.astype(node[0], "int8"), axes, keep), "bool")
    if dtype == "float16" and node.op == "ReduceSum":
        return cast(relax.op.sum(cast(node[0], "float32"), axes, keep), dtype)
    if dtype.startswith("float") and node.op in ("ReduceMax", "ReduceMin"):
        return node.te(_extreme, node[0], axes, keep, node.op == "ReduceMax", name=_NAMES[node.op])
    return _PLAIN[node.op](node[0], axes, keep)


_NAMES = {"ReduceMax": "max", "ReduceMin": "min"}


def _extreme(x: te.Tensor, axes: list[int], keep: bool, largest: bool) -> te.Tensor:
    """Largest or smallest elements; TVM's own start from a finite value and lose infinities."""
    start = -math.inf if largest else math.inf
    fold = te.comm_reducer(
        (lambda a, b: tirx.Max(a, b)) if largest else (lambda a, b: tirx.Min(a, b)),
        lambda dtype: tirx.const(start, dtype),
        name="max" if largest else "min",
    )
    inner = {axis: reduce_axis(x.shape[axis], f"k{axis}") for axis in axes}
    kept = [a for a in range(len(x.shape)) if a not in inner]
    shape = [1 if a in inner else n for a, n in enumerate(x.shape)]
    shape = shape if keep else [x.shape[a] for a in kept]

    def element(*i: tirx.Expr) -> tirx.Expr:
        place = list(i) if keep else [i[kept.index(a)] if a in kept else 0 for a in range(x.ndim)]
        place = [inner.get(a, p) for a, p in enumerate(place)]
        return fold(x(*place), axis=list(inner.values()))

    return te.compute(shape, element, name="max" if largest else "min")


@converter("ReduceMean")
def mean(node: Node) -> relax.Expr:
    axes, keep = _axes(node), bool(node.attr("keepdims", 1))
    if not axes:
        return node[0]
    if node.dtype(0) == "float16":
        return cast(relax.op.mean(cast(node[0], "float32"), axes, keep), "float16")
    if node.dtype(0).startswith("float"):
        return relax.op.mean(node[0], axes, keep)
    count = 1
    for axis in axes:
        count *= node.shape(0)[axis]
    total = relax.op.sum(node[0], axes, keep)
    return relax.op.divide(total, node.scalar(count, node.dtype(0)))


@converter("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def composed(node: Node) -> relax.Expr:
    axes, keep, x = _axes(node), bool(node.attr("keepdims", 1)), node[0]
    if node.op == "ReduceL1":
        x = relax.op.abs(x)
    elif node.op in ("ReduceL2", "ReduceSumSquare"):
        x = relax.op.multiply(x, x)
    if axes:
        x = relax.op.sum(node.emit(x), axes, keep)
    if node.op == "ReduceL2":
        dtype = node.dtype(0)
        work = dtype if dtype.startswith("float") else "float64"
        return cast(relax.op.sqrt(cast(node.emit(x), work)), dtype)
    return relax.op.log(x) if node.op == "ReduceLogSum" else x


@converter("ReduceLogSumExp")
def log_sum_exp(node: Node) -> relax.Expr:
    """The largest element is taken out of the sum, so that nothing overflows."""
    axes, keep, x = _axes(node), bool(node.attr("keepdims", 1)), node[0]
    if not axes:
        return x
    peak = node.emit(relax.op.max(x, axes, True))
    # of an infinite row the peak would leave inf - inf
    safe = node.emit(
        relax.op.where(relax.op.isinf(peak), node.scalar(0, node.dtype(0)), peak)
        if node.dtype(0).startswith("float")
        else peak
    )
    shifted = node.emit(relax.op.exp(relax.op.subtract(x, safe)))
    total = relax.op.add(relax.op.log(relax.op.sum(shifted, axes, True)), safe)
    return total if keep else relax.op.squeeze(node.emit(total), axes)
