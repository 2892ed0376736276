"""Verification of models that others quantised."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from compiler.api import build
from compiler.quantize.reference_model import exact_model, is_quantized
from tests.frontend.quantised import RNG, integers, qmodel

f32 = np.float32
MICROSOFT = {"domain": "com.microsoft"}


def save(model, folder):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def full_range(rng, shape):
    return rng.integers(-127, 127, shape, np.int8, endpoint=True)


@pytest.mark.parametrize("zero", [None, 0, -7])
def test_products_do_not_saturate(zero, tmp_path):
    """255 * 127 twice is too much for 16 bits."""
    rng = RNG(1)
    feeds = {"x": integers(rng, "uint8", (5, 64))}
    constants = {"w": full_range(rng, (64, 9)), "xz": np.uint8(3)}
    inputs = ["x", "w", "xz"]
    if zero is not None:
        constants["wz"] = np.int8(zero)
        inputs.append("wz")
    model = qmodel([helper.make_node("MatMulInteger", inputs, ["y"])], feeds, ["y"], constants)
    path = save(model, tmp_path)
    assert is_quantized(path)
    session = onnxruntime.InferenceSession(exact_model(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, feeds)
    wanted = (feeds["x"].astype(int) - 3) @ (constants["w"].astype(int) - (zero or 0))
    np.testing.assert_array_equal(got, wanted)


def test_weights_that_two_nodes_share(tmp_path):
    rng = RNG(2)
    feeds = {"x": integers(rng, "uint8", (5, 64)), "s": integers(rng, "int8", (5, 64))}
    constants = {
        "w": full_range(rng, (64, 9)),
        "xz": np.uint8(3),
        "sz": np.int8(5),
        "one": np.asarray(1, f32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "xz"], ["y"]),
        helper.make_node("MatMulInteger", ["x", "w", "xz"], ["z"]),
        helper.make_node("DequantizeLinear", ["w", "one"], ["r"]),  # stays of int8
    ]
    path = save(qmodel(nodes, feeds, ["y", "z", "r"], constants), tmp_path)
    session = onnxruntime.InferenceSession(exact_model(path), providers=["CPUExecutionProvider"])
    y, z, real = session.run(None, feeds)
    wanted = (feeds["x"].astype(int) - 3) @ constants["w"].astype(int)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(z, wanted)
    np.testing.assert_array_equal(real, constants["w"])


def test_float_models_are_left_alone(tmp_path):
    feeds = {"x": np.zeros((2, 3), f32)}
    assert not is_quantized(
        save(qmodel([helper.make_node("Relu", ["x"], ["y"])], feeds, ["y"], {}), tmp_path)
    )


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_build_verifies_quantised_models(form, tmp_path):
    """With weights of 8 bits, that saturate in ONNX Runtime's own choice of kernels."""
    rng = RNG(3)
    feeds = {"x": rng.normal(size=(1, 70)).astype(f32)}
    constants = {
        "w": full_range(rng, (70, 30)),
        "ws": np.full(30, 0.02, f32),
        "wz": np.zeros(30, np.int8),
        "s": f32(0.03),
        "z": np.uint8(120),
        "ys": f32(0.2),
    }
    if form == "static":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node(
                "QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "ys", "z"], ["integers"]
            ),
            helper.make_node("DequantizeLinear", ["integers", "ys", "z"], ["y"]),
        ]
    else:
        inputs = ["x", "w", "ws", "wz"]
        nodes = [helper.make_node("DynamicQuantizeMatMul", inputs, ["y"], **MICROSOFT)]
    outputs = ["integers", "y"] if form == "static" else ["y"]
    path = save(qmodel(nodes, feeds, outputs, constants), tmp_path)
    result = build(path, "host", output=tmp_path / "package")
    assert result.verification is not None
    assert result.verification.passed
    for output in result.verification.outputs:
        assert output.tolerance <= (1 if output.name == "integers" else 0.02)
