"""Pad, by constants or by the tensor's own elements."""

from __future__ import annotations

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, np_dtype

_CLAMPED = 1 << 31


@converter("Pad")
def pad(node: Node) -> relax.Expr:
    dims = node.shape(0)
    before, after = _pads(node, len(dims))
    mode = node.attr("mode", "constant")
    if mode == "constant":
        return _constant(node, dims, before, after)
    return node.te(_mirrored, node[0], mode, before, after, name=f"pad_{mode}")


def _pads(node: Node, rank: int) -> tuple[list[int], list[int]]:
    old = node.opset < 11
    pads = node.attr("pads") or node.attr("paddings") if old else node.ints(1, "pads")
    axes = list(range(rank))
    if node.has(3):
        axes = [node.axis_in(axis, rank) for axis in node.ints(3, "axes")]
    if len(pads) != 2 * len(axes) or any(abs(n) > _CLAMPED for n in pads):
        raise ConversionError(f"pads {pads[:16]} do not fit {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = pads[index], pads[index + len(axes)]
    return before, after


def _constant(node: Node, dims: tuple[int, ...], before: list[int], after: list[int]) -> relax.Expr:
    x = node[0]
    cropped = [a for a in range(len(dims)) if before[a] < 0 or after[a] < 0]
    if cropped:
        begins = [max(0, -before[a]) for a in cropped]
        ends = [dims[a] - max(0, -after[a]) for a in cropped]
        if any(begin >= end for begin, end in zip(begins, ends, strict=True)):
            raise ConversionError("negative pads remove the whole tensor")
        x = relax.op.strided_slice(x, cropped, begins, ends)
    widths = [max(0, n) for pair in zip(before, after, strict=True) for n in pair]
    if not any(widths):
        return x
    value = node.attr("value", 0.0)
    if node.has(2):
        if not node.is_const(2):
            return _run_time_value(node, x, widths)
        value = node.inputs[2].reshape(-1)[0]
    if np.asarray(float(value)).astype(np_dtype(node.dtype(0))) == value:
        return relax.op.nn.pad(x, widths, "constant", float(value))
    # relax.nn.pad holds its value as float64, which cannot say every int64
    fill = node.make_constant(np.asarray(value, dtype=node.dtype(0)))
    return filled(node, x, widths, fill)


def _run_time_value(node: Node, x: relax.Expr, widths: list[int]) -> relax.Expr:
    return filled(node, x, widths, relax.op.reshape(node[2], ()))


def filled(node: Node, x: relax.Expr, widths: list[int], fill: relax.Expr) -> relax.Expr:
    return node.te(_padded, node.emit(x), node.emit(fill), widths, name="pad_value")


def _padded(x: te.Tensor, fill: te.Tensor, widths: list[int]) -> te.Tensor:
    before, after = widths[::2], widths[1::2]
    shape = [n + b + a for n, b, a in zip(x.shape, before, after, strict=True)]

    def source(*index: tirx.Expr) -> tirx.Expr:
        place = [i - b for i, b in zip(index, before, strict=True)]
        inside = tirx.all(*(tirx.all(p >= 0, p < n) for p, n in zip(place, x.shape, strict=True)))
        return tirx.if_then_else(inside, x(*place), fill())

    return te.compute(shape, source, name="pad_value")


def _mirrored(x: te.Tensor, mode: str, before: list[int], after: list[int]) -> te.Tensor:
    """Edge, reflect and wrap padding as a gather of the tensor's own elements."""
    shape = [n + b + a for n, b, a in zip(x.shape, before, after, strict=True)]

    def source(*index: tirx.Expr) -> tirx.Expr:
        place = []
        for i, extent, front, back in zip(index, x.shape, before, after, strict=True):
            shifted = i - front
            if front == 0 and back == 0:
                place.append(i)
            elif mode == "edge":
                place.append(tirx.max(tirx.min(shifted, extent - 1), 0))
            elif mode == "wrap":
                place.append(tirx.floormod(shifted, extent))
            elif mode == "reflect":
                period = tirx.max(2 * (extent - 1), 1)
                phase = tirx.floormod(shifted, period)
                place.append(tirx.min(phase, period - phase) if int(extent) > 1 else 0 * i)
            else:
                raise ConversionError(f"unknown pad mode '{mode}'")
        return x(*place)

    return te.compute(shape, source, name=f"pad_{mode}")
