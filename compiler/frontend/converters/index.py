"""Gather and the like: elements chosen by computed indices."""

from __future__ import annotations

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node
from compiler.quantize.rows import TAKE_AXIS, emit_rows


def bounded_indices(node: Node, position: int, extent: int) -> relax.Expr:
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
    index = bounded_indices(node, 1, dims[axis])
    if node.is_const(1) and node.inputs[1].size == 1:
        # one element: a slice, which fuses with its readers
        begin = int(node.inputs[1].reshape(-1)[0]) % dims[axis]
        part = relax.op.strided_slice(node[0], [axis], [begin], [begin + 1])
        return relax.op.reshape(part, (*dims[:axis], *node.shape(1), *dims[axis + 1 :]))
    # the indices are within bounds already: no second check in the kernel
    stored = node.integers.of(node.inputs[0]) if node.is_const(0) else None
    if stored is not None and (stored.quantum.per_tensor or stored.quantum.axis != axis):
        rows = node.te(take, node.make_constant(stored.integers), index, axis, name="take")
        return stored.gathered(axis, node.rank(1)).emit(node.builder, rows)
    if stored is not None and axis == 0:
        return emit_rows(node.builder, stored.integers, stored.quantum, index)
    return node.te(take, node[0], index, axis, name="take", attrs={TAKE_AXIS: axis})


def take(x: te.Tensor, index: te.Tensor, axis: int) -> te.Tensor:
    """Kernel: elements of ``x`` along ``axis`` at indices that lie within it."""
    rank = len(index.shape)
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]

    def source(*i: tirx.Expr) -> tirx.Expr:
        chosen = index(*i[axis : axis + rank])
        return x(*i[:axis], chosen, *i[axis + rank :])

    return te.compute(shape, source, name="take")


@converter("GatherElements")
def gather_elements(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", 0), node.rank(0))
    index = bounded_indices(node, 1, node.shape(0)[axis])

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
                at = tirx.Select(at < 0, at + extent, at)
                place.append(tirx.max(tirx.min(at, extent - 1), 0))
            return x(*i[:batch], *place, *i[len(outer) :])

        return te.compute(shape, source, name="gather_nd")

    return node.te(take, node[0], node[1], name="gather_nd")


@converter("OneHot")
def one_hot(node: Node) -> relax.Expr:
    depth = int(node.const(1, "depth").reshape(-1)[0])
    dims = node.shape(0)
    axis = node.axis_in(node.attr("axis", -1), len(dims) + 1)
    raw, kind = node[0], node.dtype(0)

    def hot(index: te.Tensor, values: te.Tensor) -> te.Tensor:
        def source(*i: tirx.Expr) -> tirx.Expr:
            at = tirx.Cast("int64", index(*i[:axis], *i[axis + 1 :]))
            at = tirx.Select(at < 0, at + depth, at)
            return tirx.Select(at == i[axis], values(1), values(0))

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
    return node.te(take, x, keep.astype(np.int64), axis, name="take")


@converter("ReverseSequence")
def reverse_sequence(node: Node) -> relax.Expr:
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)

    def reverse(x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def source(*i: tirx.Expr) -> tirx.Expr:
            length = tirx.max(tirx.min(lengths(i[batch]), x.shape[time]), 0)
            place = list(i)
            place[time] = tirx.Select(i[time] < length, length - 1 - i[time], i[time])
            return x(*place)

        return te.compute(x.shape, source, name="reverse_sequence")

    return node.te(reverse, node[0], node[1], name="reverse_sequence")
