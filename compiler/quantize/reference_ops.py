"""Relax operators in NumPy: results are float64 where operands are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax

from compiler.passes.packed_values import shape_of

Evaluate = Callable[..., "np.ndarray | None"]


def padded(
    x: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: float,
    out: Sequence[int],
) -> np.ndarray:
    """A tensor of any axes before its spatial ones, as far as windows reach."""
    rank = len(kernel)
    pads = [(0, 0)] * (x.ndim - rank)
    for axis, extent in enumerate(x.shape[x.ndim - rank :]):
        span = (out[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        pads.append((padding[axis], max(span - extent - padding[axis], 0)))
    if not any(before or after for before, after in pads):
        return x
    return np.pad(x, pads, constant_values=fill)


def windows(
    x: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    fill: float,
    out: Sequence[int],
) -> np.ndarray:
    """[N, C, out..., kernel...] of a padded [N, C, ...] tensor; ``padding``: all befores first."""
    rank = len(kernel)
    whole = padded(x, kernel, strides, padding, dilation, fill, out)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(whole, spans, tuple(range(2, rank + 2)))
    index: list[Any] = [slice(None), slice(None)]
    index += [slice(0, n * s, s) for n, s in zip(out, strides, strict=True)]
    index += [slice(None, None, d) for d in dilation]
    return view[tuple(index)]


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def convolution(call: relax.Call, x: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Grouped convolution by one product of matrices a group."""
    x, weights = _summable(x), _summable(weights)
    attrs = call.attrs
    if attrs.data_layout[:2] != "NC" or attrs.kernel_layout[:2] != "OI":
        return None
    groups, out = int(attrs.groups), shape_of(call)
    rank = weights.ndim - 2
    padding = _ints(attrs.padding)
    view = windows(
        x,
        weights.shape[2:],
        _ints(attrs.strides),
        padding[:rank],
        _ints(attrs.dilation),
        0.0,
        out[2:],
    )
    n, points = x.shape[0], math.prod(out[2:])
    # [N, groups, C/g, points, window] -> [N, groups, points, C/g * window]
    split = view.reshape(n, groups, x.shape[1] // groups, points, -1)
    columns = split.transpose(0, 1, 3, 2, 4).reshape(n, groups, points, -1)
    rows = weights.reshape(groups, weights.shape[0] // groups, -1).transpose(0, 2, 1)
    total = np.matmul(columns, rows).transpose(0, 1, 3, 2).reshape(out)
    return total.astype(str(call.ty.dtype)) if "int" in str(call.ty.dtype) else total


def _summable(x: np.ndarray) -> np.ndarray:
    """Integers as float64, which sums up their products exactly, and quickly."""
    return x.astype("float64") if x.dtype.kind in "iu" else x


def _matmul(call: relax.Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.matmul(_summable(a), _summable(b))
    return total.astype(str(call.ty.dtype)) if "int" in str(call.ty.dtype) else total


def _max_pool(call: relax.Call, x: np.ndarray) -> np.ndarray | None:
    fill = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    return _pooled(call, x, fill, lambda view, axes: view.max(axis=axes))


def _average_pool(call: relax.Call, x: np.ndarray) -> np.ndarray | None:
    total = _pooled(call, x, 0.0, lambda view, axes: view.sum(axis=axes))
    if total is None:
        return None
    if call.attrs.count_include_pad:
        return total / math.prod(_ints(call.attrs.pool_size))
    ones = np.ones((1, 1, *x.shape[2:]))
    counts = _pooled(call, ones, 0.0, lambda view, axes: view.sum(axis=axes))
    return total / counts


def _pooled(call: relax.Call, x: np.ndarray, fill: float, reduce: Callable) -> np.ndarray | None:
    attrs = call.attrs
    if attrs.layout[:2] != "NC" or (attrs.count_include_pad and attrs.ceil_mode):
        return None
    rank = x.ndim - 2
    view = windows(
        x,
        _ints(attrs.pool_size),
        _ints(attrs.strides),
        _ints(attrs.padding)[:rank],
        _ints(attrs.dilation),
        fill,
        shape_of(call)[2:],
    )
    return reduce(view, tuple(range(-rank, 0)))


def _axes(call: relax.Call) -> tuple[int, ...] | None:
    return None if call.attrs.axis is None else tuple(_ints(call.attrs.axis))


def _clip(call: relax.Call, x: np.ndarray, *_: object) -> np.ndarray:
    low, high = (float(getattr(a, "value", a)) for a in call.args[1:])
    return np.clip(x, low, high).astype(x.dtype)


def _erf(x: np.ndarray) -> np.ndarray:
    """By the standard library, to the last bit of float64."""
    return np.vectorize(math.erf, otypes=["float64"])(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _leaky(call: relax.Call, x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, x * float(np.float32(call.attrs.alpha)))


def _permute(call: relax.Call, x: np.ndarray) -> np.ndarray:
    axes = call.attrs.axes
    return x.transpose(None if axes is None else _ints(axes))


def _elementwise(function: Callable, integers: bool = False) -> Evaluate:
    """Of floats, and of integers of one type where they have no rules of their own."""
    kinds = "fbiu" if integers else "fb"

    def evaluate(call: relax.Call, *operands: Any) -> np.ndarray | None:
        arrays = operands[: function.nin] if isinstance(function, np.ufunc) else operands
        known = all(isinstance(a, np.ndarray) and a.dtype.kind in kinds for a in arrays)
        return function(*arrays) if known else None

    return evaluate


def _reduced(function: Callable) -> Evaluate:
    def evaluate(call: relax.Call, x: np.ndarray) -> np.ndarray | None:
        return function(x, axis=_axes(call)).astype(x.dtype)

    return evaluate


def _astype(call: relax.Call, x: np.ndarray) -> np.ndarray | None:
    dtype = str(call.ty.dtype)
    if dtype == "float32":
        return x.astype("float64")
    if dtype == "float16":
        return x.astype("float16").astype("float64")
    if dtype == "bfloat16":
        return x.astype("float32").astype(ml_dtypes.bfloat16).astype("float64")
    return x.astype(dtype) if dtype.startswith(("int", "uint")) else None


def _softmax(call: relax.Call, x: np.ndarray) -> np.ndarray:
    axis = int(call.attrs.axis)
    power = np.exp(x - x.max(axis=axis, keepdims=True))
    return power / power.sum(axis=axis, keepdims=True)


def _layer_norm(call: relax.Call, x: np.ndarray, gain: np.ndarray, shift: np.ndarray):
    attrs, axes = call.attrs, tuple(_ints(call.attrs.axes))
    if axes not in ((-1,), (x.ndim - 1,)) or not (attrs.center and attrs.scale):
        return None
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + float(attrs.epsilon)) * gain + shift


EVALUATORS: dict[str, Evaluate] = {
    "relax.nn.conv1d": convolution,
    "relax.nn.conv2d": convolution,
    "relax.nn.conv3d": convolution,
    "relax.nn.max_pool1d": _max_pool,
    "relax.nn.max_pool2d": _max_pool,
    "relax.nn.max_pool3d": _max_pool,
    "relax.nn.avg_pool1d": _average_pool,
    "relax.nn.avg_pool2d": _average_pool,
    "relax.nn.avg_pool3d": _average_pool,
    "relax.matmul": _matmul,
    "relax.mean": lambda call, x: x.mean(axis=_axes(call)) if x.dtype.kind == "f" else None,
    "relax.reshape": lambda call, x, *_: x,
    "relax.expand_dims": lambda call, x: x,
    "relax.squeeze": lambda call, x: x,
    "relax.flatten": lambda call, x: x,
    "relax.permute_dims": _permute,
    "relax.concat": lambda call, parts: np.concatenate(parts, axis=int(call.attrs.axis or 0)),
    "relax.clip": _clip,
    "relax.nn.relu": _elementwise(lambda x: np.maximum(x, 0)),
    "relax.nn.relu6": _elementwise(lambda x: np.clip(x, 0, 6)),
    "relax.nn.leakyrelu": _leaky,
    "relax.nn.gelu": _elementwise(_gelu),
    "relax.nn.gelu_tanh": _elementwise(_gelu_tanh),
    "relax.nn.silu": _elementwise(lambda x: x * _sigmoid(x)),
    "relax.sigmoid": _elementwise(_sigmoid),
    "relax.erf": _elementwise(_erf),
    "relax.tanh": _elementwise(np.tanh),
    "relax.exp": _elementwise(np.exp),
    "relax.log": _elementwise(np.log),
    "relax.abs": _elementwise(np.abs),
    "relax.sign": _elementwise(np.sign),
    "relax.square": _elementwise(np.square),
    "relax.floor": _elementwise(np.floor),
    "relax.ceil": _elementwise(np.ceil),
    "relax.sin": _elementwise(np.sin),
    "relax.cos": _elementwise(np.cos),
    "relax.power": _elementwise(np.power),
    "relax.rsqrt": _elementwise(lambda x: 1 / np.sqrt(x)),
    "relax.sqrt": _elementwise(np.sqrt),
    "relax.add": _elementwise(np.add, integers=True),
    "relax.subtract": _elementwise(np.subtract, integers=True),
    "relax.multiply": _elementwise(np.multiply, integers=True),
    "relax.divide": _elementwise(np.divide),
    "relax.maximum": _elementwise(np.maximum, integers=True),
    "relax.minimum": _elementwise(np.minimum, integers=True),
    "relax.negative": _elementwise(np.negative, integers=True),
    "relax.equal": _elementwise(np.equal, integers=True),
    "relax.greater": _elementwise(np.greater, integers=True),
    "relax.greater_equal": _elementwise(np.greater_equal, integers=True),
    "relax.less": _elementwise(np.less, integers=True),
    "relax.less_equal": _elementwise(np.less_equal, integers=True),
    "relax.where": _elementwise(np.where, integers=True),
    "relax.round": _elementwise(np.rint),
    "relax.max": _reduced(np.max),
    "relax.min": _reduced(np.min),
    "relax.sum": _reduced(np.sum),
    "relax.astype": _astype,
    "relax.nn.softmax": _softmax,
    "relax.nn.layer_norm": _layer_norm,
}
