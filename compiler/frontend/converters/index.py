"""Gather, scatter and the like: elements chosen by computed indices."""

from __future__ import annotations

import numpy as np
from tvm import relax, te, tirx, topi

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node


def _indices(node: Node, position: int, extent: int) -> relax.Expr:
    """Index input ``position`` with negative ones counted from the end, within 0..extent-1.

    Constant indices are checked here; run-time indices are clamped, so that no input data can
    make the kernel read or write outside its buffers.
    """
    if node.is_const(position):
        index = node.inputs[position]
        if index.size and (index.min() < -extent or index.max() >= extent):
            raise ConversionError(f"an index lies outside of an axis of {extent} elements")
        return node.make_constant(np.where(index < 0, index + extent, index).astype(index.dtype))
    dtype = node.dtype(position)
    index = node[position]
    if not dtype.startswith("uint"):
        last = relax.op.add(index, node.scalar(extent, dtype))
        index = relax.op.where(relax.op.less(index, node.scalar(0, dtype)), last, index)
        index = relax.op.maximum(index, node.scalar(0, dtype))
    return node.emit(relax.op.minimum(index, node.scalar(extent - 1, dtype)))


@converter("Gather")
def gather(node: Node) -> relax.Expr:
    dims = node.shape(0)
    axis = node.axis_in(node.attr("axis", 0), len(dims))
    index = _indices(node, 1, dims[axis])
    if node.is_const(1) and node.inputs[1].size == 1:
        # one element: a slice, which fuses with its readers
        begin = int(node.inputs[1].reshape(-1)[0]) % dims[axis]
        part = relax.op.strided_slice(node[0], [axis], [begin], [begin + 1])
        return relax.op.reshape(part, (*dims[:axis], *node.shape(1), *dims[axis + 1 :]))
    # the indices are within bounds already: no second check in the kernel
    return node.te(_take, node[0], index, axis, name="take")


def _take(x: te.Tensor, index: te.Tensor, axis: int) -> te.Tensor:
    rank = len(index.shape)
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]

    def source(*i: tirx.Expr) -> tirx.Expr:
        chosen = index(*i[axis : axis + rank])
        return x(*i[:axis], chosen, *i[axis + rank :])

    return te.compute(shape, source, name="take")


@converter("GatherElements")
def gather_elements(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", 0), node.rank(0))
    index = _indices(node, 1, node.shape(0)[axis])

    def take(x: te.Tensor, index: te.Tensor) -> te.Tensor:
        return te.compute(
            index.shape,
            lambda *i: x(*i[:axis], index(*i), *i[axis + 1 :]),
            name="gather_elements",
        )

    return node.te(take, node[0], index, name="gather_elements")


@converter("GatherND")
def gather_nd(node: Node) -> relax.Expr:
    dims, batch = node.shape(0), node.attr("batch_dims", 0)
    *outer, depth = node.shape(1)
    shape = [*outer, *dims[batch + depth :]]

    def take(x: te.Tensor, index: te.Tensor) -> te.Tensor:
        def source(*i: tirx.Expr) -> tirx.Expr:
            place = []
            for k in range(depth):
                extent = dims[batch + k]
                at = index(*i[: len(outer)], k)
                at = tirx.if_then_else(at < 0, at + extent, at)
                place.append(tirx.max(tirx.min(at, extent - 1), 0))
            return x(*i[:batch], *place, *i[len(outer) :])

        return te.compute(shape, source, name="gather_nd")

    return node.te(take, node[0], node[1], name="gather_nd")


_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


@converter("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", 0), node.rank(0))
    index = _indices(node, 1, node.shape(0)[axis])
    reduction = _REDUCTIONS[node.attr("reduction", "none")]
    return node.te(
        topi.scatter_elements, node[0], index, node[2], axis, reduction, name="scatter_elements"
    )


@converter("ScatterND")
def scatter_nd(node: Node) -> relax.Expr:
    dims = node.shape(0)
    *outer, depth = node.shape(1)
    if node.is_const(1):
        limits = np.asarray(dims[:depth], np.int64)
        raw = node.inputs[1]
        if raw.size and ((raw < -limits) | (raw >= limits)).any():
            raise ConversionError("an index lies outside of the tensor")
        index = node.make_constant(np.where(raw < 0, raw + limits, raw).astype(raw.dtype))
    else:
        extent = node.make_constant(np.asarray(dims[:depth], np.int64))
        zero = node.scalar(0, "int64")
        wrapped = relax.op.where(
            relax.op.less(node[1], zero), relax.op.add(node[1], extent), node[1]
        )
        last = node.make_constant(np.asarray(dims[:depth], np.int64) - 1)
        index = node.emit(relax.op.minimum(relax.op.maximum(wrapped, zero), last))
    reduction = _REDUCTIONS[node.attr("reduction", "none")]
    # topi counts index tuples along the first axis
    order = [len(outer), *range(len(outer))]
    index = node.emit(relax.op.permute_dims(index, order)) if outer else index
    return node.te(topi.scatter_nd, node[0], index, node[2], reduction, name="scatter_nd")


@converter("OneHot")
def one_hot(node: Node) -> relax.Expr:
    depth = int(node.const(1, "depth").reshape(-1)[0])
    dims = node.shape(0)
    axis = node.axis_in(node.attr("axis", -1), len(dims) + 1)
    raw, kind = node[0], node.dtype(0)

    def hot(index: te.Tensor, values: te.Tensor) -> te.Tensor:
        def source(*i: tirx.Expr) -> tirx.Expr:
            at = tirx.Cast("int64", index(*i[:axis], *i[axis + 1 :]))
            at = tirx.if_then_else(at < 0, at + depth, at)
            return tirx.if_then_else(at == i[axis], values(1), values(0))

        return te.compute([*dims[:axis], depth, *dims[axis:]], source, name="one_hot")

    if kind.startswith("float"):
        raw = node.emit(relax.op.astype(raw, "int64"))
    return node.te(hot, raw, node[2], name="one_hot")


@converter("Compress")
def compress(node: Node) -> relax.Expr:
    keep = np.flatnonzero(node.const(1, "condition"))
    dims, axis = node.shape(0), node.attr("axis")
    x = node[0]
    if axis is None:
        x, dims, axis = node.emit(relax.op.reshape(x, (int(np.prod(dims)),))), (-1,), 0
    axis = node.axis_in(axis, len(dims))
    return node.te(_take, x, keep.astype(np.int64), axis, name="take")


@converter("ReverseSequence")
def reverse_sequence(node: Node) -> relax.Expr:
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)

    def reverse(x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def source(*i: tirx.Expr) -> tirx.Expr:
            length = tirx.max(tirx.min(lengths(i[batch]), x.shape[time]), 0)
            place = list(i)
            place[time] = tirx.if_then_else(i[time] < length, length - 1 - i[time], i[time])
            return x(*place)

        return te.compute(x.shape, source, name="reverse_sequence")

    return node.te(reverse, node[0], node[1], name="reverse_sequence")


@converter("CumSum", "CumProd")
def cumulative(node: Node) -> relax.Expr:
    axis = node.axis_in(int(node.const(1, "axis").reshape(-1)[0]), node.rank(0))
    scan = topi.cumsum if node.op == "CumSum" else topi.cumprod
    exclusive, back = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))
    x = node.emit(relax.op.flip(node[0], axis)) if back else node[0]
    result = node.te(scan, x, axis, node.dtype(0), exclusive, name=node.op.lower())
    return relax.op.flip(result, axis) if back else result
