"""Quantised operators of others, as ONNX Runtime computes them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from tvm import relax

from compiler.frontend import import_model
from tests.frontend.builders import save
from tests.frontend.quantised import RNG, compare, integers, qmodel, weights
from tests.frontend.test_graph import operators

MICROSOFT = {"domain": "com.microsoft"}
f32 = np.float32


def name_of(expr: relax.Expr) -> str:
    return expr.op.name if isinstance(expr, relax.Call) else ""


def quantum(name: str, scale, zero) -> dict[str, np.ndarray]:
    """Constants NAME_s and NAME_z."""
    return {f"{name}_s": np.asarray(scale, f32), f"{name}_z": np.asarray(zero)}


def named(*names: str) -> list[str]:
    """NAME, NAME_s, NAME_z of each."""
    return [f"{n}{suffix}" for n in names for suffix in ("", "_s", "_z")]


def qdq(name: str, source: str) -> list:
    """source -> quantised NAME -> real NAME_r."""
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", f"{name}_z"], [name]),
        helper.make_node("DequantizeLinear", named(name), [f"{name}_r"]),
    ]


CONVOLUTIONS = {
    "plain": ({}, (1, 5, 9, 11), (7, 5, 3, 3)),
    "strided": ({"strides": [2, 2], "pads": [1, 1, 0, 2]}, (2, 3, 8, 9), (5, 3, 3, 3)),
    "point": ({}, (1, 33, 7, 5), (17, 33, 1, 1)),
    "depthwise": ({"group": 9, "pads": [1, 1, 1, 1]}, (1, 9, 6, 7), (9, 1, 3, 3)),
    "grouped": ({"group": 2, "dilations": [2, 1]}, (1, 6, 9, 8), (4, 3, 3, 2)),
    "row": ({"pads": [2, 1]}, (1, 5, 17), (6, 5, 4)),
    "same": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 7, 7), (3, 4, 3, 3)),
}
TYPES = {"U8S8": ("uint8", "int8"), "S8S8": ("int8", "int8"), "U8U8": ("uint8", "uint8")}


def convolution_parts(rng, shapes, types: str, channels: bool):
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


@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channels"])
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_qlinear_conv(case, types, channels, tmp_path):
    if types == "U8U8" and channels:
        pytest.skip("ONNX Runtime takes asymmetric weights of one zero point alone")
    attributes, *shapes = CONVOLUTIONS[case]
    feeds, constants = convolution_parts(RNG(3), shapes, types, channels)
    inputs = [*named("x", "w"), "y_s", "y_z", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], **attributes)
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97


@pytest.mark.parametrize("case", ["strided", "depthwise", "row"])
@pytest.mark.parametrize("types", TYPES)
def test_conv_between_dequantize_and_quantize(case, types, tmp_path):
    attributes, *shapes = CONVOLUTIONS[case]
    feeds, constants = convolution_parts(RNG(4), shapes, types, types != "U8U8")
    constants |= {"b_s": constants["x_s"] * constants["w_s"]}
    axis = {"axis": 0} if constants["w_s"].ndim else {}
    nodes = [
        helper.make_node("DequantizeLinear", named("x"), ["x_r"]),
        helper.make_node("DequantizeLinear", named("w"), ["w_r"], **axis),
        helper.make_node("DequantizeLinear", ["b", "b_s"], ["b_r"], **axis),
        helper.make_node("Conv", ["x_r", "w_r", "b_r"], ["c"], **attributes),
        helper.make_node("QuantizeLinear", ["c", "y_s", "y_z"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    (equal,) = compare(model, feeds, tmp_path)
    assert equal > 0.97
    assert operators(import_model(save(model, tmp_path))) == [
        "relax.dequantize",
        "relax.dequantize",
        f"relax.nn.conv{len(shapes[0]) - 2}d",
        "relax.add",
        "relax.quantize",
    ]


MATRICES = {
    "square": ((4, 32), (32, 16)),
    "ragged": ((7, 33), (33, 9)),
    "batch": ((2, 5, 31), (31, 13)),
    "batches": ((2, 3, 5, 9), (2, 3, 9, 4)),
}


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("case", MATRICES)
def test_qlinear_matmul(case, types, columns, tmp_path):
    rng, (a_type, b_type) = RNG(5), TYPES[types]
    left, right = MATRICES[case]
    if columns and (len(right) > 2 or b_type == "uint8"):
        pytest.skip("columns of one matrix of symmetric weights")
    count = right[-1:] if columns else ()
    scale = rng.uniform(0.002, 0.01, count).astype(f32)
    constants = {
        **quantum("a", 0.03, np.asarray(131 if a_type == "uint8" else 4, a_type)),
        **quantum("b", scale, np.full(count, 0 if b_type == "int8" else 140, b_type)),
        **quantum("y", 0.03 * 0.006 * 70 * 60 * right[-2] ** 0.5 / 100, np.asarray(7, a_type)),
        "b": weights(rng, b_type, right),
    }
    feeds = {"a": integers(rng, a_type, left)}
    node = helper.make_node("QLinearMatMul", [*named("a", "b"), "y_s", "y_z"], ["y"])
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97


def test_gemm_keeps_transposed_weights_as_integers(tmp_path):
    rng = RNG(6)
    feeds = {"x": rng.normal(size=(3, 20)).astype(f32)}
    constants = {
        **quantum("q", 0.03, np.uint8(120)),
        **quantum("w", rng.uniform(0.01, 0.02, 6), np.zeros(6, np.int8)),
        **quantum("y", 0.05, np.uint8(128)),
        "w": weights(rng, "int8", (6, 20)),
        "b": rng.normal(size=6).astype(f32),
    }
    nodes = [
        *qdq("q", "x"),
        helper.make_node("DequantizeLinear", named("w"), ["w_r"], axis=0),
        helper.make_node("Gemm", ["q_r", "w_r", "b"], ["g"], transB=1),
        *qdq("y", "g"),
    ]
    model = qmodel(nodes, feeds, ["y_r"], constants)
    compare(model, feeds, tmp_path, step=0.05)
    main = import_model(save(model, tmp_path)).module["main"]
    calls = {b.var: b.value for b in main.body.blocks[0].bindings}
    (product,) = [c for c in calls.values() if name_of(c) == "relax.matmul"]
    weight = calls[product.args[1]]
    assert weight.op.name == "relax.dequantize"
    np.testing.assert_array_equal(weight.args[0].value.numpy(), constants["w"].T)
    assert weight.attrs.axis == 1


BINARY = {
    "same": ((2, 5, 7), (2, 5, 7)),
    "channel": ((1, 6, 5, 3), (6, 1, 1)),
    "scalar": ((3, 5), ()),
}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("known", [False, True], ids=["computed", "constant"])
@pytest.mark.parametrize("case", BINARY)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_qlinear_binary(op, case, known, dtype, tmp_path):
    rng = RNG(7)
    left, right = BINARY[case]
    low = 0 if dtype == "uint8" else -128
    constants = {
        **quantum("a", 0.031, np.asarray(low + 90, dtype)),
        **quantum("b", 0.017, np.asarray(low + 200, dtype)),
        **quantum("y", 0.04, np.asarray(low + 130, dtype)),
    }
    feeds = {"a": integers(rng, dtype, left)}
    (constants if known else feeds)["b"] = integers(rng, dtype, right)
    node = helper.make_node(op, [*named("a", "b"), "y_s", "y_z"], ["y"], **MICROSOFT)
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97
