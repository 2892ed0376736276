"""Pooling."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.converters.window import Window, layout, window
from compiler.frontend.node import ConversionError, Node, np_dtype, reduce_axis

_MAX = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
_AVERAGE = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}


def _view(node: Node) -> Window:
    kernel = node.attr("kernel_shape")
    if kernel is None:
        raise ConversionError("kernel_shape is missing")
    return window(node, node.shape(0)[2:], list(kernel), bool(node.attr("ceil_mode", 0)))


def _pool(function: Callable, x: relax.Expr, view: Window, **more: object) -> relax.Expr:
    return function(
        x,
        pool_size=view.kernel,
        strides=view.strides,
        padding=view.padding,
        dilation=view.dilations,
        layout=layout(len(view.kernel))[0],
        **more,
    )


@converter("MaxPool")
def max_pool(node: Node) -> list[relax.Expr]:
    view = _view(node)
    values = _pool(_MAX[len(view.kernel)], node[0], view)
    if not node.wants(1):
        return [values]
    column_major = bool(node.attr("storage_order", 0))
    return [values, node.te(_argmax_pool, node[0], view, column_major, name="max_pool_indices")]


def _windowed(x: te.Tensor, view: Window) -> tuple[list[tirx.IterVar], Callable]:
    """Reduction axes over the window, and a function from output index to source position."""
    axes = [reduce_axis(k, f"k{i}") for i, k in enumerate(view.kernel)]

    def place(index: tuple[tirx.Expr, ...]) -> tuple[list[tirx.Expr], tirx.Expr]:
        source = [
            i * s + k * d - b
            for i, s, k, d, b in zip(
                index[2:], view.strides, axes, view.dilations, view.before, strict=True
            )
        ]
        inside = tirx.all(
            *(tirx.all(p >= 0, p < n) for p, n in zip(source, x.shape[2:], strict=True))
        )
        return source, inside

    return axes, place


def _argmax_pool(x: te.Tensor, view: Window, column_major: bool) -> te.Tensor:
    """Flat index, over the whole input, of the first largest element of every window."""
    axes, place = _windowed(x, view)
    spatial = [int(n) for n in x.shape[2:]]
    strides = [math.prod(spatial[i + 1 :]) for i in range(len(spatial))]
    if column_major:
        strides = [math.prod(spatial[:i]) for i in range(len(spatial))]

    def identity(d0: str, d1: str) -> tuple[tirx.Expr, tirx.Expr]:
        return tirx.const(-1, d0), tirx.min_value(d1)

    def larger(a: tuple, b: tuple) -> tuple[tirx.Expr, tirx.Expr]:
        keep = tirx.any(a[1] > b[1], tirx.all(a[1] == b[1], tirx.any(a[0] < b[0], b[0] < 0)))
        keep = tirx.all(a[0] >= 0, keep)
        return tirx.Select(keep, a[0], b[0]), tirx.Select(keep, a[1], b[1])

    reducer = te.comm_reducer(larger, identity, name="argmax")

    def source(*index: tirx.Expr) -> tirx.Expr:
        at, inside = place(index)
        clamped = [tirx.max(tirx.min(p, n - 1), 0) for p, n in zip(at, spatial, strict=True)]
        value = tirx.Select(inside, x(*index[:2], *clamped), tirx.min_value(x.dtype))
        flat = sum((p * s for p, s in zip(at, strides, strict=True)), tirx.const(0, "int64"))
        flat = flat + (index[0] * x.shape[1] + index[1]) * math.prod(spatial)
        flat = tirx.Select(inside, tirx.Cast("int64", flat), tirx.const(-1, "int64"))
        return reducer((flat, value), axis=axes)

    shape = [*x.shape[:2], *view.out]
    indices, _ = te.compute(shape, source, name="max_pool_indices")
    return indices


@converter("AveragePool")
def average_pool(node: Node) -> relax.Expr:
    view = _view(node)
    include = bool(node.attr("count_include_pad", 0))
    if any(d != 1 for d in view.dilations):
        return _dilated_average(node, view, include)
    result = _pool(_AVERAGE[len(view.kernel)], node[0], view, count_include_pad=include)
    if not include or node.attr("auto_pad", "NOTSET") != "NOTSET":
        return result
    # windows that ceil_mode added reach beyond the model's own padding: that part is not counted
    counts = _counts(node, view, include)
    full = math.prod(view.kernel)
    if (counts == full).all():
        return result
    return relax.op.multiply(result, _ratio(node, np.full(counts.shape, full), counts))


def _ratio(node: Node, upper: np.ndarray, lower: np.ndarray) -> relax.Expr:
    return node.make_constant((upper / np.maximum(lower, 1)).astype(np_dtype(node.dtype(0))))


def _counts(node: Node, view: Window, include: bool) -> np.ndarray:
    """How many elements each window averages over, of shape 1, 1, out..."""
    rank = len(view.kernel)
    pads = node.attr("pads") or [0] * 2 * rank
    total = np.ones([1, 1] + [1] * rank)
    for axis, extent in enumerate(node.shape(0)[2:]):
        starts = np.arange(view.out[axis]) * view.strides[axis] - view.before[axis]
        taps = starts[:, None] + np.arange(view.kernel[axis]) * view.dilations[axis]
        low, high = (-pads[axis], extent + pads[axis + rank]) if include else (0, extent)
        counted = ((taps >= low) & (taps < high)).sum(axis=1)
        total = total * counted.reshape([-1 if i == axis + 2 else 1 for i in range(rank + 2)])
    return total


def _sum_pool(x: te.Tensor, view: Window, power: float = 1.0) -> te.Tensor:
    axes, place = _windowed(x, view)

    def source(*index: tirx.Expr) -> tirx.Expr:
        at, inside = place(index)
        value = tirx.if_then_else(inside, x(*index[:2], *at), tirx.const(0, x.dtype))
        if power.is_integer() and 1 < power <= 4:
            factor = value if power == 2.0 else tirx.abs(value)
            value = reduce(operator.mul, [factor] * int(power))
        elif power != 1.0:
            value = tirx.power(tirx.abs(value), tirx.const(power, x.dtype))
        return te.sum(value, axes)

    return te.compute([*x.shape[:2], *view.out], source, name="sum_pool")


def _dilated_average(node: Node, view: Window, include: bool) -> relax.Expr:
    counts = _counts(node, view, include)
    total = node.te(_sum_pool, node[0], view, name="sum_pool")
    return relax.op.multiply(total, _ratio(node, np.ones_like(counts), counts))


@converter("LpPool")
def lp_pool(node: Node) -> relax.Expr:
    power = float(node.attr("p", 2))
    view = _view(node)
    x = relax.op.abs(node[0]) if power == 1.0 else node[0]
    total = node.te(_sum_pool, node.emit(x), view, power, name="lp_pool")
    return _root(node, total, power)


def _root(node: Node, total: relax.Expr, power: float) -> relax.Expr:
    if power == 1.0:
        return total
    if power == 2.0:
        return relax.op.sqrt(total)
    return relax.op.power(total, node.scalar(1 / power, node.dtype(0)))


def _spatial(node: Node) -> list[int]:
    return list(range(2, node.rank(0)))


@converter("GlobalAveragePool")
def global_average_pool(node: Node) -> relax.Expr:
    return relax.op.mean(node[0], _spatial(node), keepdims=True)


@converter("GlobalMaxPool")
def global_max_pool(node: Node) -> relax.Expr:
    return relax.op.max(node[0], _spatial(node), keepdims=True)


@converter("GlobalLpPool")
def global_lp_pool(node: Node) -> relax.Expr:
    power = float(node.attr("p", 2))
    x = relax.op.abs(node[0])
    if power != 1.0:
        x = relax.op.power(x, node.scalar(power, node.dtype(0)))
    return _root(node, relax.op.sum(node.emit(x), _spatial(node), keepdims=True), power)


@converter("MaxUnpool")
def max_unpool(node: Node) -> relax.Expr:
    """Values go back to the flat positions that MaxPool noted; everything else is zero."""
    dims, kernel = node.shape(0), node.attr("kernel_shape")
    rank = len(kernel)
    strides, pads = node.attr("strides") or [1] * rank, node.attr("pads") or [0] * 2 * rank
    natural = [
        (n - 1) * s + k - pads[i] - pads[i + rank]
        for i, (n, s, k) in enumerate(zip(dims[2:], strides, kernel, strict=True))
    ]
    shape = [*dims[:2], *natural]
    target = node.ints(2, "output_shape") if node.has(2) else shape
    # positions count in the tensor of the natural shape, whatever is asked for
    flat = math.prod(dims)

    def scatter(x: te.Tensor, index: te.Tensor) -> te.Tensor:
        source = reduce_axis(flat, "source")

        def pick(i: tirx.Expr) -> tirx.Expr:
            hit = tirx.Cast("int64", index(source)) == tirx.Cast("int64", i)
            return te.sum(tirx.Select(hit, x(source), tirx.const(0, x.dtype)), source)

        return te.compute([math.prod(shape)], pick, name="max_unpool")

    values = node.emit(relax.op.reshape(node[0], (flat,)))
    places = node.emit(relax.op.reshape(node[1], (flat,)))
    result = relax.op.reshape(node.te(scatter, values, places, name="max_unpool"), tuple(shape))
    widths = [n for have, want in zip(shape, target, strict=True) for n in (0, want - have)]
    return relax.op.nn.pad(result, widths) if any(widths) else result
