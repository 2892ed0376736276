"""Quantised ONNX models for tests, and their comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tvm import relax

from compiler.frontend import ImportedModel, import_model
from tests.frontend.builders import run

RNG = np.random.default_rng
MICROSOFT = {"domain": "com.microsoft"}
f32 = np.float32


def qmodel(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    opset: int = 21,
) -> onnx.ModelProto:
    """A model whose inputs have the shapes and types of ``inputs``."""
    graph = helper.make_graph(
        nodes,
        "quantised",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def onnx_runtime(model: onnx.ModelProto | Path, feeds: Mapping[str, np.ndarray]) -> list:
    """ONNX Runtime's outputs.

    Its layout optimiser makes operators of int8 that it has no kernels for.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def assert_same_steps(
    got: np.ndarray, want: np.ndarray, step: float = 1.0, share: float = 0.999
) -> float:
    """Assert that ``share`` of the values are within one quantisation step.

    Args:
        step: what a step is worth; 1 for integers.

    Returns:
        The share of values that are equal.
    """
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    steps = np.abs(got.astype(np.float64) - want.astype(np.float64)) / step
    within = (steps <= 1.001).mean() if steps.size else 1.0
    assert within >= share, f"{1 - within:.4%} differ by more than a step, at most by {steps.max()}"
    return float((steps < 0.5).mean()) if steps.size else 1.0


def compare(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    folder: Path,
    step: float = 1.0,
) -> list[float]:
    """Import and run a model; the share of exactly equal values of each output."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    results = run(import_model(path), **feeds)
    wanted = onnx_runtime(model, feeds)
    shares = []
    for got, want in zip(results, wanted, strict=True):
        one = 1.0 if got.dtype.kind in "iu" else step
        shares.append(assert_same_steps(got, want, one))
    return shares


def integers(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Every value of the type, alike."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def weights(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Weights as quantisers make them.

    int8 ones are of 7 bits: ONNX Runtime's AVX2 kernels saturate sums of two larger products.
    """
    if dtype == "int8":
        return rng.integers(-63, 63, shape, np.int8, endpoint=True)
    return integers(rng, dtype, shape)


def name_of(expr: relax.Expr) -> str:
    return expr.op.name if isinstance(expr, relax.Call) else ""


def quantum(name: str, scale: Any, zero: Any) -> dict[str, np.ndarray]:
    """Constants NAME_s and NAME_z."""
    return {f"{name}_s": np.asarray(scale, f32), f"{name}_z": np.asarray(zero)}


def named(*names: str) -> list[str]:
    """NAME, NAME_s, NAME_z of each."""
    return [f"{n}{suffix}" for n in names for suffix in ("", "_s", "_z")]


def qdq(name: str, source: str) -> list[onnx.NodeProto]:
    """source -> quantised NAME -> real NAME_r."""
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", f"{name}_z"], [name]),
        helper.make_node("DequantizeLinear", named(name), [f"{name}_r"]),
    ]


CONVOLUTIONS = {
    "strided": ({"strides": [2, 2], "pads": [1, 1, 0, 2]}, (2, 3, 8, 9), (5, 3, 3, 3)),
    "depthwise": ({"group": 9, "pads": [1, 1, 1, 1]}, (1, 9, 6, 7), (9, 1, 3, 3)),
    "grouped": ({"group": 2, "dilations": [2, 1]}, (1, 6, 9, 8), (4, 3, 3, 2)),
    "row": ({"pads": [2, 1]}, (1, 5, 17), (6, 5, 4)),
    "same": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 7, 7), (3, 4, 3, 3)),
}
TYPES = {"U8S8": ("uint8", "int8"), "S8S8": ("int8", "int8"), "U8U8": ("uint8", "uint8")}


def convolution_parts(
    rng: np.random.Generator, shapes: Sequence[Sequence[int]], types: str, channels: bool
) -> tuple[dict, dict]:
    """Feeds and constants of a quantised convolution: x, w, b and y."""
    x_type, w_type = TYPES[types]
    x_shape, w_shape = shapes
    x = integers(rng, x_type, x_shape)
    w = weights(rng, w_type, w_shape)
    count = (w_shape[0],) if channels else ()
    w_zero = np.zeros(count, w_type) if w_type == "int8" else np.full(count, 121, w_type)
    w_scale = rng.uniform(0.001, 0.02, count).astype(f32)
    spread = 0.05 * 100 * float(w_scale.mean()) * 50 * np.sqrt(np.prod(w_shape[1:]))
    constants = {
        **quantum("x", 0.05, np.asarray(117 if x_type == "uint8" else -9, x_type)),
        **quantum("w", w_scale, w_zero),
        **quantum("y", spread / 100, np.asarray(99 if x_type == "uint8" else 3, x_type)),
        "w": w,
        "b": rng.integers(-9000, 9000, w_shape[0], np.int32),
    }
    return {"x": x}, constants


def conv_weight(imported: ImportedModel) -> relax.Call:
    """What the only convolution or product of a module takes as weight."""
    bindings = {b.var: b.value for b in imported.module["main"].body.blocks[0].bindings}
    names = ("relax.nn.conv2d", "relax.matmul")
    (call,) = [c for c in bindings.values() if name_of(c) in names]
    return bindings[call.args[1]]
