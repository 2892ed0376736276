"""Scatter as gather: every output element looks for the updates that are meant for it.

That costs one comparison for each pair of position and index tuple, but runs in parallel without
conflicts, and where the indices are constant the search is done at compile time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend.converters.index import bounded_indices
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, reduce_axis

_COMBINE: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "min": lambda a, b: tirx.Min(a, b),
    "max": lambda a, b: tirx.Max(a, b),
}


def _identity(reduction: str, dtype: str) -> tirx.Expr:
    if reduction in ("add", "mul"):
        return tirx.const(int(reduction == "mul"), dtype)
    return tirx.max_value(dtype) if reduction == "min" else tirx.min_value(dtype)


@converter("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", 0), node.rank(0))
    index = bounded_indices(node, 1, node.shape(0)[axis])
    reduction = node.attr("reduction", "none")
    return node.te(
        _scatter_elements, node[0], index, node[2], axis, reduction, name="scatter_elements"
    )


def _scatter_elements(
    x: te.Tensor, index: te.Tensor, update: te.Tensor, axis: int, reduction: str
) -> te.Tensor:
    others = [a for a in range(len(x.shape)) if a != axis]

    def covered(i: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Whether the indices reach this position in the other axes."""
        checks = [i[a] < index.shape[a] for a in others if int(index.shape[a]) < int(x.shape[a])]
        return tirx.all(*checks) if checks else tirx.const(True, "bool")

    def at(tensor: te.Tensor, i: tuple[tirx.Expr, ...], k: tirx.Expr) -> tirx.Expr:
        place = [tirx.min(v, tensor.shape[a] - 1) for a, v in enumerate(i)]
        place[axis] = k
        return tensor(*place)

    source = reduce_axis(index.shape[axis], "source")

    def hit(i: tuple[tirx.Expr, ...]) -> tirx.Expr:
        wanted = tirx.Cast("int64", at(index, i, source)) == tirx.Cast("int64", i[axis])
        return tirx.all(covered(i), wanted)

    if reduction == "none":
        last = te.compute(
            x.shape,
            lambda *i: te.max(
                tirx.Select(hit(i), tirx.Cast("int64", source), tirx.const(-1, "int64")), source
            ),
            name="winner",
        )
        return te.compute(
            x.shape,
            lambda *i: tirx.Select(
                last(*i) >= 0, at(update, i, tirx.max(last(*i), tirx.const(0, "int64"))), x(*i)
            ),
            name="scatter",
        )
    return _combined(x, reduction, source, lambda i: (hit(i), at(update, i, source)))


def _combined(x: te.Tensor, reduction: str, source: tirx.IterVar, find: Callable) -> te.Tensor:
    """``x`` combined with the fold of the updates that ``find`` says belong to a position."""
    if reduction not in _COMBINE:
        raise ConversionError(f"unknown reduction '{reduction}'")
    combine = _COMBINE[reduction]
    fold = te.comm_reducer(combine, lambda dtype: _identity(reduction, dtype), name=reduction)

    def collect(*i: tirx.Expr) -> tirx.Expr:
        hit, value = find(i)
        return fold(tirx.Select(hit, value, _identity(reduction, x.dtype)), axis=source)

    total = te.compute(x.shape, collect, name="collect")
    return te.compute(x.shape, lambda *i: combine(x(*i), total(*i)), name="scatter")


@converter("ScatterND")
def scatter_nd(node: Node) -> relax.Expr:
    """Index tuples become flat positions in the leading axes; the rest moves in slices."""
    dims = node.shape(0)
    *outer, depth = node.shape(1)
    rows, width = math.prod(dims[:depth]), math.prod(dims[depth:])
    reduction = node.attr("reduction", "none")
    count = math.prod(outer)
    x = node.emit(relax.op.reshape(node[0], (rows, width)))
    update = node.emit(relax.op.reshape(node[2], (count, width)))
    flat = _flat_positions(node, dims[:depth], count)
    if reduction == "none" and isinstance(flat, np.ndarray):
        winner = np.full(rows, -1, np.int64)
        winner[flat] = np.arange(count)
        result = node.te(_placed, x, update, winner, name="scatter_nd")
    else:
        index = node.make_constant(flat) if isinstance(flat, np.ndarray) else flat
        result = node.te(_scatter_rows, x, index, update, reduction, name="scatter_nd")
    return relax.op.reshape(result, dims)


def _flat_positions(node: Node, dims: tuple[int, ...], count: int) -> np.ndarray | relax.Expr:
    strides = np.asarray([math.prod(dims[k + 1 :]) for k in range(len(dims))], np.int64)
    extents = np.asarray(dims, np.int64)
    if node.is_const(1):
        raw = node.inputs[1].reshape(count, len(dims))
        if ((raw < -extents) | (raw >= extents)).any():
            raise ConversionError("an index lies outside of the tensor")
        return (np.where(raw < 0, raw + extents, raw) * strides).sum(axis=1)

    def flatten(index: te.Tensor) -> te.Tensor:
        def position(m: tirx.Expr) -> tirx.Expr:
            total = tirx.const(0, "int64")
            for k, (extent, stride) in enumerate(zip(dims, strides.tolist(), strict=True)):
                at = index(m, k)
                at = tirx.Select(at < 0, at + extent, at)
                total = total + tirx.max(tirx.min(at, extent - 1), 0) * stride
            return total

        return te.compute([count], position, name="positions")

    index = node.emit(relax.op.reshape(node[1], (count, len(dims))))
    return node.te(flatten, index, name="positions")


def _placed(x: te.Tensor, update: te.Tensor, winner: te.Tensor) -> te.Tensor:
    zero = tirx.const(0, "int64")
    return te.compute(
        x.shape,
        lambda r, c: tirx.Select(winner(r) >= 0, update(tirx.max(winner(r), zero), c), x(r, c)),
        name="scatter",
    )


def _scatter_rows(x: te.Tensor, index: te.Tensor, update: te.Tensor, reduction: str) -> te.Tensor:
    source = reduce_axis(index.shape[0], "source")
    if reduction == "none":
        none = tirx.const(-1, "int64")
        winner = te.compute(
            [x.shape[0]],
            lambda r: te.max(
                tirx.Select(index(source) == r, tirx.Cast("int64", source), none), source
            ),
            name="winner",
        )
        return _placed(x, update, winner)
    return _combined(x, reduction, source, lambda i: (index(source) == i[0], update(source, i[1])))


@converter("TensorScatter")
def tensor_scatter(node: Node) -> relax.Expr:
    """A cache whose rows from ``write_indices[batch]`` on are replaced."""
    axis = node.axis_in(node.attr("axis", -2), node.rank(0))
    circular = node.attr("mode", "linear") == "circular"
    start = node[2] if node.has(2) else node.make_constant(np.zeros(node.shape(0)[0], np.int64))

    def write(cache: te.Tensor, update: te.Tensor, first: te.Tensor) -> te.Tensor:
        length, total = update.shape[axis], cache.shape[axis]

        def element(*i: tirx.Expr) -> tirx.Expr:
            step = i[axis] - tirx.Cast("int64", first(i[0]))
            step = tirx.floormod(step, total) if circular else step
            place = list(i)
            place[axis] = tirx.max(tirx.min(step, length - 1), 0)
            new = tirx.all(step >= 0, step < length)
            return tirx.Select(new, update(*place), cache(*i))

        return te.compute(cache.shape, element, name="tensor_scatter")

    return node.te(write, node[0], node[1], start, name="tensor_scatter")
