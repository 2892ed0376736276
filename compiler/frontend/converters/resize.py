"""Resize and Upsample: along each axis a few source elements, weighed by tables made here.

The formulas are those of the ONNX operator's documentation and reference implementation.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from compiler.frontend.axis_ops import AxisOp
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, np_dtype


@converter("Upsample")
def upsample(node: Node) -> relax.Expr:
    if node.opset >= 9:
        scales = [float(s) for s in node.const(1, "scales").reshape(-1)]
    else:
        scales = node.attr("scales") or [
            1.0,
            1.0,
            node.attr("height_scale", 1.0),
            node.attr("width_scale", 1.0),
        ]
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}[
        node.attr("mode", "nearest")
    ]
    x = node[0]
    for axis, scale in enumerate(scales):
        extent = node.shape(0)[axis]
        out = math.floor(extent * scale)
        if out == extent and scale == 1.0:
            continue
        table = Table(node, extent, out, scale, mode, "asymmetric", "floor")
        x = table.apply(x, axis)
    return x


@converter("Resize")
def resize(node: Node) -> relax.Expr:
    dims = node.shape(0)
    axes = [node.axis_in(a, len(dims)) for a in node.attr("axes") or range(len(dims))]
    scales, sizes = _targets(node, dims, axes)
    transform = node.attr("coordinate_transformation_mode", "half_pixel")
    if node.opset < 11:
        transform, nearest = "asymmetric", "floor"
    else:
        nearest = node.attr("nearest_mode", "round_prefer_floor")
    mode = node.attr("mode", "nearest")
    x = node[0]
    for index, axis in enumerate(axes):
        if (
            sizes[index] == dims[axis]
            and scales[index] == 1.0
            and transform != "tf_crop_and_resize"
        ):
            continue
        table = Table(node, dims[axis], sizes[index], scales[index], mode, transform, nearest)
        if transform == "tf_crop_and_resize":
            region = node.const(1, "roi").reshape(-1)
            table.crop = float(region[index]), float(region[index + len(axes)])
        x = table.apply(x, axis)
    return x


def _targets(node: Node, dims: tuple[int, ...], axes: list[int]) -> tuple[list[float], list[int]]:
    """Scale and output extent of every resized axis."""
    scales_at = 1 if node.opset < 11 else 2
    if node.has(3) and not (node.is_const(3) and node.inputs[3].size == 0):
        sizes = node.ints(3, "sizes")
        ratios = [size / dims[axis] for size, axis in zip(sizes, axes, strict=True)]
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            sizes = [math.floor(ratio * dims[axis] + 0.5) for axis in axes]
        return ratios, sizes
    scales = [float(s) for s in node.const(scales_at, "scales").reshape(-1)]
    if len(scales) != len(axes) or any(not s > 0 for s in scales):
        raise ConversionError(f"scales {scales[:8]} do not fit {len(axes)} axes")
    return scales, [math.floor(dims[a] * s) for a, s in zip(axes, scales, strict=True)]


class Table:
    """For every output position of one axis the source positions and their weights."""

    def __init__(
        self,
        node: Node,
        extent: int,
        out: int,
        scale: float,
        mode: str,
        transform: str,
        nearest: str,
    ) -> None:
        self.node, self.extent, self.out, self.scale = node, extent, out, scale
        self.mode, self.transform, self.nearest = mode, transform, nearest
        self.crop = (0.0, 1.0)

    def apply(self, x: relax.Expr, axis: int) -> relax.Expr:
        """``x`` resized along ``axis``."""
        node, x = self.node, self.node.emit(x)
        source = self._coordinates()
        if self.mode == "nearest":
            index, weight = self._nearest(source), None
        else:
            index, weight = self._weighed(source)
        dtype = node.dtype(0)
        outside = None
        if self.transform == "tf_crop_and_resize":
            outside = (source < 0) | (source > self.extent - 1)
        repeat = self.out // self.extent
        if weight is None and repeat and (index == np.arange(self.out) // repeat).all():
            op = AxisOp("repeated", axis, repeat)
            result = node.te(op, x, name="resize_nearest", attrs=op.attrs)
        elif weight is None:
            op = AxisOp("taken", axis)
            index = index.astype(np.int32)
            result = node.te(op, x, index, name="resize_nearest", attrs=op.attrs)
        else:
            work = dtype if dtype.startswith("float") else "float32"
            x = x if work == dtype else node.emit(relax.op.astype(x, work))
            op = AxisOp("interpolated", axis)
            tables = index.astype(np.int32), weight.astype(np_dtype(work))
            result = node.te(op, x, *tables, name=f"resize_{self.mode}", attrs=op.attrs)
            if work != dtype:
                result = relax.op.astype(relax.op.round(result), dtype)
        if outside is not None and outside.any():
            shape = [-1 if a == axis else 1 for a in range(node.rank(0))]
            mask = node.make_constant(outside.reshape(shape))
            fill = node.scalar(node.attr("extrapolation_value", 0.0), dtype)
            result = relax.op.where(mask, fill, result)
        return result

    def _coordinates(self) -> np.ndarray:
        """The source coordinate of every output position."""
        position = np.arange(self.out, dtype=np.float64)
        scale, extent = self.scale, self.extent
        width = scale * extent  # the output's length before it was rounded down
        if self.transform == "align_corners":
            return position * (extent - 1) / (width - 1) if width != 1 else position * 0
        if self.transform == "asymmetric":
            return position / scale
        if self.transform == "tf_crop_and_resize":
            start, end = self.crop
            if width == 1:
                return np.full(self.out, (end - start) * (extent - 1) / 2)
            return start * (extent - 1) + position * (end - start) * (extent - 1) / (width - 1)
        if self.transform == "pytorch_half_pixel":
            return (position + 0.5) / scale - 0.5 if width > 1 else position * 0 - 0.5 + 0.5
        if self.transform == "half_pixel_symmetric":
            offset = extent / 2 * (1 - self.out / width)
            return offset + (position + 0.5) / scale - 0.5
        if self.transform == "half_pixel":
            return (position + 0.5) / scale - 0.5
        raise ConversionError(f"unknown coordinate transformation '{self.transform}'")

    def _nearest(self, source: np.ndarray) -> np.ndarray:
        down, up = np.floor(source), np.ceil(source)
        if self.nearest == "floor":
            index = down
        elif self.nearest == "ceil":
            index = up
        elif self.nearest == "round_prefer_floor":
            index = np.where(source - down <= 0.5, down, up)
        elif self.nearest == "round_prefer_ceil":
            index = np.where(source - down < 0.5, down, up)
        else:
            raise ConversionError(f"unknown nearest mode '{self.nearest}'")
        return np.clip(index, 0, self.extent - 1).astype(np.int64)

    def _weighed(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices and weights, both of shape (out, taps)."""
        if self.mode not in ("linear", "cubic"):
            raise ConversionError(f"unknown mode '{self.mode}'")
        stretch = 1.0
        if self.node.attr("antialias", 0) and self.scale < 1:
            stretch = self.scale
        radius = (1 if self.mode == "linear" else 2) / stretch
        taps = np.arange(-math.ceil(radius) + 1, math.ceil(radius) + 1)
        base = np.floor(source)
        if stretch < 1 or self.mode == "cubic" or self.node.attr("exclude_outside", 0):
            base = np.ceil(source) - 1 + (source == np.floor(source))
        index = base[:, None] + taps[None, :]
        distance = np.abs(source[:, None] - index) * stretch
        weight = _triangle(distance) if self.mode == "linear" else self._keys(distance)
        if self.node.attr("exclude_outside", 0):
            weight = np.where((index < 0) | (index >= self.extent), 0.0, weight)
        if stretch < 1 or self.node.attr("exclude_outside", 0):
            weight = weight / weight.sum(axis=1, keepdims=True)
        return np.clip(index, 0, self.extent - 1), weight

    def _keys(self, t: np.ndarray) -> np.ndarray:
        """Keys' cubic kernel (IEEE Trans. ASSP 29, 1981) with its free parameter ``a``."""
        a = self.node.attr("cubic_coeff_a", -0.75)
        inner = ((a + 2) * t - (a + 3)) * t * t + 1
        outer = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - t)
