"""Shape, layout and slicing: tensors rearranged, not computed."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node


@converter("Shape")
def shape(node: Node) -> np.ndarray:
    dims = node.shape(0)
    return np.asarray(dims[slice(node.attr("start", 0), node.attr("end"))], np.int64)


@converter("Size")
def size(node: Node) -> np.ndarray:
    return np.asarray(math.prod(node.shape(0)), np.int64)


@converter("Identity")
def identity(node: Node) -> object:
    return node.inputs[0]


@converter("Dropout")
def dropout(node: Node) -> list[object]:
    """Inference: the identity; the mask, where wanted, is all true."""
    if node.opset >= 12 and node.has(2) and bool(node.const(2, "training_mode").reshape(-1)[0]):
        ratio = float(node.const(1, "ratio").reshape(-1)[0]) if node.has(1) else 0.5
        if ratio != 0.0:
            raise ConversionError("dropout in training mode", "export the model for inference")
    mask_type = "bool" if node.opset >= 10 else node.dtype(0)
    mask = np.ones(node.shape(0), mask_type) if node.wants(1) else None
    return [node.inputs[0], mask]


@converter("Reshape")
def reshape(node: Node) -> relax.Expr:
    dims = node.shape(0)
    target = list(node.attr("shape")) if node.opset < 5 else node.ints(1, "shape")
    if not node.attr("allowzero", 0):
        target = [dims[i] if n == 0 and i < len(dims) else n for i, n in enumerate(target)]
    if target.count(-1) == 1:
        known = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = math.prod(dims) // known if known else 0
    if any(n < 0 for n in target) or math.prod(target) != math.prod(dims):
        raise ConversionError(f"cannot reshape {dims} to {tuple(target)}")
    return _reshaped(node, target)


def _reshaped(node: Node, target: list[int] | tuple[int, ...]) -> relax.Expr:
    if tuple(target) == node.shape(0):
        return node[0]
    return relax.op.reshape(node[0], tuple(target))


@converter("Flatten")
def flatten(node: Node) -> relax.Expr:
    dims = node.shape(0)
    axis = node.attr("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return _reshaped(node, (math.prod(dims[:axis]), math.prod(dims[axis:])))


@converter("Squeeze")
def squeeze(node: Node) -> relax.Expr:
    dims = node.shape(0)
    axes = node.axes(1, len(dims))
    if axes is None:
        axes = [axis for axis, extent in enumerate(dims) if extent == 1]
    for axis in axes:
        if dims[axis] != 1:
            raise ConversionError(f"cannot squeeze axis {axis} of {dims}")
    return _reshaped(node, [n for axis, n in enumerate(dims) if axis not in axes])


@converter("Unsqueeze")
def unsqueeze(node: Node) -> relax.Expr:
    axes = node.attr("axes") or node.ints(1, "axes")
    rank = node.rank(0) + len(axes)
    places = {node.axis_in(axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise ConversionError(f"axes {axes} name one place twice")
    dims = iter(node.shape(0))
    return _reshaped(node, [1 if axis in places else next(dims) for axis in range(rank)])
