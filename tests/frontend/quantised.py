"""Quantised ONNX models for tests, and their comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend import import_model
from tests.frontend.builders import run

RNG = np.random.default_rng


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


FLOAT = TensorProto.FLOAT
