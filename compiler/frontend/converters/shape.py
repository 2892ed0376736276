"""Shape, layout and slicing: tensors rearranged, not computed."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend import limits
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, np_dtype


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


@converter("Transpose")
def transpose(node: Node) -> relax.Expr:
    rank = node.rank(0)
    order = node.attr("perm") or list(range(rank))[::-1]
    if sorted(order) != list(range(rank)):
        raise ConversionError(f"perm {order} is no permutation of {rank} axes")
    return node[0] if order == list(range(rank)) else relax.op.permute_dims(node[0], order)


@converter("Concat")
def concat(node: Node) -> relax.Expr:
    axis = node.axis_in(node.attr("axis", 1), node.rank(0))
    parts = [node[i] for i in range(len(node.inputs)) if node.shape(i)[axis] != 0]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis)


def slice_axis(x: relax.Expr, axis: int, begin: int, end: int) -> relax.Expr:
    """``x[begin:end]`` along ``axis``, 0 <= begin <= end."""
    return relax.op.strided_slice(x, [axis], [begin], [end])


@converter("Split")
def split(node: Node) -> list[relax.Expr]:
    """One slice an output: unlike a split they fuse with what reads them."""
    axis = node.axis_in(node.attr("axis", 0), node.rank(0))
    extent, count = node.shape(0)[axis], len(node.outputs)
    sizes = node.attr("split")
    if sizes is None and node.has(1):
        sizes = node.ints(1, "split")
    if sizes is None:
        chunk = -(-extent // count)
        sizes = [max(0, min(chunk, extent - chunk * i)) for i in range(count)]
    if sum(sizes) != extent or len(sizes) != count or any(n < 0 for n in sizes):
        raise ConversionError(f"cannot split {extent} elements into {sizes}")
    starts = [sum(sizes[:i]) for i in range(count)]
    return [
        np.zeros([*node.shape(0)[:axis], 0, *node.shape(0)[axis + 1 :]], node.dtype(0))
        if size == 0
        else slice_axis(node[0], axis, start, start + size)
        for start, size in zip(starts, sizes, strict=True)
    ]


@converter("Slice")
def slice_(node: Node) -> relax.Expr | np.ndarray:
    dims = node.shape(0)
    if node.opset < 10:
        starts, ends, axes, steps = node.attr("starts"), node.attr("ends"), node.attr("axes"), None
    else:
        starts, ends = node.ints(1, "starts"), node.ints(2, "ends")
        axes = node.ints(3, "axes") if node.has(3) else None
        steps = node.ints(4, "steps") if node.has(4) else None
    axes = [node.axis_in(a, len(dims)) for a in (axes or range(len(starts)))]
    steps = steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ConversionError("starts, ends, axes and steps do not agree")
    x = node[0]
    ranges = [
        _positions(start, end, step, dims[axis])
        for start, end, step, axis in zip(starts, ends, steps, axes, strict=True)
    ]
    if any(len(r) == 0 for r in ranges):
        shape = [len(ranges[axes.index(a)]) if a in axes else n for a, n in enumerate(dims)]
        return np.zeros(shape, node.dtype(0))
    forward = [(a, r) for a, r in zip(axes, ranges, strict=True) if r.step > 0]
    forward = [(a, r) for a, r in forward if r != range(dims[a])]
    if forward:
        x = relax.op.strided_slice(
            x,
            [a for a, _ in forward],
            [r.start for _, r in forward],
            [r[-1] + 1 for _, r in forward],
            [r.step for _, r in forward],
        )
    backward = {a: r for a, r in zip(axes, ranges, strict=True) if r.step < 0}
    return node.te(_reversed, node.emit(x), backward, name="reverse_slice") if backward else x


def _positions(start: int, end: int, step: int, extent: int) -> range:
    """The elements of a slice; beyond either end ONNX clamps where NumPy finds nothing."""
    start = start + extent if start < 0 else start
    end = end + extent if end < 0 else end
    if step < 0:
        return range(min(max(start, 0), extent - 1), min(max(end, -1), extent - 1), step)
    return range(min(max(start, 0), extent), min(max(end, 0), extent), step)


def _reversed(x: te.Tensor, ranges: dict[int, range]) -> te.Tensor:
    shape = [len(ranges[a]) if a in ranges else n for a, n in enumerate(x.shape)]

    def source(*index: tirx.Expr) -> tirx.Expr:
        place = [
            ranges[a].start + i * ranges[a].step if a in ranges else i for a, i in enumerate(index)
        ]
        return x(*place)

    return te.compute(shape, source, name="reverse_slice")


@converter("Expand")
def expand(node: Node) -> relax.Expr:
    dims = node.shape(0)
    target = np.broadcast_shapes(dims, tuple(node.ints(1, "shape")))
    return node[0] if target == dims else relax.op.broadcast_to(node[0], target)


@converter("Tile")
def tile(node: Node) -> relax.Expr:
    if node.opset < 6:
        axis = int(node.const(2, "axis").reshape(-1)[0])
        repeats = [1] * node.rank(0)
        repeats[axis] = int(node.const(1, "tiles").reshape(-1)[0])
    else:
        repeats = node.ints(1, "repeats")
    return relax.op.tile(node[0], repeats)


@converter("DepthToSpace")
def depth_to_space(node: Node) -> relax.Expr:
    n, c, h, w = node.shape(0)
    b = node.attr("blocksize")
    if node.attr("mode", "DCR") == "DCR":
        split_dims, order = (n, b, b, c // b**2, h, w), [0, 3, 4, 1, 5, 2]
    else:
        split_dims, order = (n, c // b**2, b, b, h, w), [0, 1, 4, 2, 5, 3]
    moved = relax.op.permute_dims(relax.op.reshape(node[0], split_dims), order)
    return relax.op.reshape(moved, (n, c // b**2, h * b, w * b))


@converter("SpaceToDepth")
def space_to_depth(node: Node) -> relax.Expr:
    n, c, h, w = node.shape(0)
    b = node.attr("blocksize")
    parts = relax.op.reshape(node[0], (n, c, h // b, b, w // b, b))
    blocks_first = node.attr("mode", "DCR") == "DCR"
    order = [0, 3, 5, 1, 2, 4] if blocks_first else [0, 1, 3, 5, 2, 4]
    moved = relax.op.permute_dims(parts, order)
    return relax.op.reshape(moved, (n, c * b * b, h // b, w // b))


@converter("EyeLike")
def eye_like(node: Node) -> np.ndarray:
    from onnx.helper import tensor_dtype_to_np_dtype

    dtype = node.attr("dtype")
    rows, columns = node.shape(0)
    kind = tensor_dtype_to_np_dtype(dtype) if dtype else np_dtype(node.dtype(0))
    return np.eye(rows, columns, k=node.attr("k", 0)).astype(kind)


@converter("ConstantOfShape")
def constant_of_shape(node: Node) -> relax.Expr:
    """Reached when the shape is known but the tensor too large to keep as a constant."""
    value = node.attr("value", np.zeros(1, np.float32))
    shape = node.ints(0, "shape")
    return relax.op.full(tuple(shape), node.make_constant(value.reshape(())), str(value.dtype))


@converter("Range")
def range_(node: Node) -> np.ndarray:
    """Reached where folding declined: operands of one element that are no scalars, or too many."""
    names = ("start", "limit", "delta")
    start, limit, delta = (node.const(i, what).reshape(-1)[0] for i, what in enumerate(names))
    count = (float(limit) - float(start)) / float(delta) if delta else math.inf
    if not count < limits.MAX_FOLDED_BYTES / start.itemsize:
        raise ConversionError("the range is too large to be a constant")
    return np.arange(start, limit, delta).astype(start.dtype)


@converter("Trilu")
def trilu(node: Node) -> relax.Expr:
    k = int(node.const(1, "k").reshape(-1)[0]) if node.has(1) else 0
    k = max(-(2**31), min(2**31 - 1, k))
    upper = bool(node.attr("upper", 1))
    *_, rows, columns = node.shape(0)
    mask = np.tri(rows, columns, k - 1 if upper else k, dtype=bool)
    zero = node.scalar(0, node.dtype(0))
    mask = node.make_constant(~mask if upper else mask)
    return relax.op.where(mask, node[0], zero)
