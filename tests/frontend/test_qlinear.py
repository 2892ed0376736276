"""Operators of quantised tensors (QOperator format), as ONNX Runtime computes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from compiler.frontend import import_model
from tests.frontend.builders import run, save
from tests.frontend.quantised import (
    CONVOLUTIONS,
    MICROSOFT,
    RNG,
    TYPES,
    assert_same_steps,
    compare,
    convolution_parts,
    f32,
    integers,
    named,
    qmodel,
    quantum,
    weights,
)

# ONNX Runtime takes asymmetric weights of one zero point alone.
FORMS = [(types, channels) for types in TYPES for channels in (False, True)][:-1]


@pytest.mark.parametrize(("types", "channels"), FORMS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_qlinear_conv(case, types, channels, tmp_path):
    attributes, *shapes = CONVOLUTIONS[case]
    feeds, constants = convolution_parts(RNG(3), shapes, types, channels)
    inputs = [*named("x", "w"), "y_s", "y_z", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], **attributes)
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97


MATRICES = {
    "ragged": ((7, 33), (33, 9)),
    "batch": ((2, 5, 31), (31, 13)),
    "batches": ((2, 3, 5, 9), (2, 3, 9, 4)),
}


@pytest.mark.parametrize(("types", "columns"), FORMS)
@pytest.mark.parametrize("case", MATRICES)
def test_qlinear_matmul(case, types, columns, tmp_path):
    rng, (a_type, b_type) = RNG(5), TYPES[types]
    left, right = MATRICES[case]
    count = right[-1:] if columns and len(right) == 2 else ()
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


BINARY = {
    "same": ((2, 5, 7), (2, 5, 7)),
    "channel": ((1, 6, 5, 3), (6, 1, 1)),
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


UNARY = {
    "QLinearGlobalAveragePool": ({}, (2, 5, 7, 6)),
    "QLinearAveragePool": ({"kernel_shape": [3, 2], "strides": [2, 1]}, (1, 3, 9, 8)),
    "QLinearAveragePool padded": (
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0},
        (1, 3, 9, 8),
    ),
    "QLinearSigmoid": ({}, (3, 100)),
    "QLinearLeakyRelu": ({"alpha": 0.2}, (3, 100)),
    "QLinearSoftmax": ({"axis": -1, "opset": 13}, (5, 33)),
    "QLinearSoftmax old": ({"axis": 1, "opset": 11}, (3, 5, 7)),
}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("case", UNARY)
def test_qlinear_unary(case, dtype, tmp_path):
    op, (attributes, shape) = case.split()[0], UNARY[case]
    low = 0 if dtype == "uint8" else -128
    scale = 1 / 256 if op in ("QLinearSigmoid", "QLinearSoftmax") else 0.021
    constants = {
        **quantum("x", 0.043, np.asarray(low + 110, dtype)),
        **quantum("y", scale, np.asarray(low + (0 if scale < 0.02 else 99), dtype)),
    }
    feeds = {"x": integers(RNG(8), dtype, shape)}
    node = helper.make_node(op, [*named("x"), "y_s", "y_z"], ["y"], **attributes, **MICROSOFT)
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.94


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("stored", [True, False], ids=["integers", "floats"])
def test_qgemm(types, stored, tmp_path):
    rng, (a_type, b_type) = RNG(9), TYPES[types]
    constants = {
        **quantum("a", 0.03, np.asarray(101 if a_type == "uint8" else -20, a_type)),
        **quantum("b", 0.007, np.asarray(0 if b_type == "int8" else 130, b_type)),
        **quantum("y", 0.2, np.asarray(100, a_type)),
        "b": weights(rng, b_type, (11, 37)),
        "c": rng.integers(-20000, 20000, 11, np.int32),
    }
    feeds = {"a": integers(rng, a_type, (5, 37))}
    output = ["y_s", "y_z"] if stored else []
    inputs = [*named("a", "b"), "c", *output]
    node = helper.make_node("QGemm", inputs, ["y"], transB=1, alpha=1.0, **MICROSOFT)
    compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path, step=1e-3)


def test_qlinear_concat(tmp_path):
    rng = RNG(10)
    constants = {
        **quantum("a", 0.03, np.uint8(101)),
        **quantum("b", 0.05, np.uint8(30)),
        **quantum("y", 0.05, np.uint8(30)),
    }
    feeds = {"a": integers(rng, "uint8", (2, 3, 5)), "b": integers(rng, "uint8", (2, 4, 5))}
    inputs = ["y_s", "y_z", *named("a", "b")]
    node = helper.make_node("QLinearConcat", inputs, ["y"], axis=1, **MICROSOFT)
    compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)


def test_qlinear_where(tmp_path):
    rng = RNG(11)
    constants = {
        **quantum("a", 0.03, np.uint8(101)),
        **quantum("b", 0.05, np.uint8(30)),
        **quantum("y", 0.06, np.uint8(90)),
        "c": rng.random((4, 1)) > 0.5,
    }
    feeds = {"a": integers(rng, "uint8", (4, 50)), "b": integers(rng, "uint8", (50,))}
    inputs = ["c", *named("a", "b"), "y_s", "y_z"]
    node = helper.make_node("QLinearWhere", inputs, ["y"], **MICROSOFT)
    compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)


def test_qlinear_reduce_mean(tmp_path):
    """ONNX Runtime has no kernel for it."""
    constants = {**quantum("x", 0.04, np.uint8(110)), **quantum("y", 0.02, np.uint8(99))}
    feeds = {"x": integers(RNG(8), "uint8", (3, 5, 4, 7))}
    node = helper.make_node(
        "QLinearReduceMean",
        [*named("x"), "y_s", "y_z"],
        ["y"],
        axes=[1, -1],
        keepdims=0,
        **MICROSOFT,
    )
    model = qmodel([node], feeds, ["y"], constants)
    (got,) = run(import_model(save(model, tmp_path)), **feeds)
    mean = (feeds["x"].astype("float64") - 110).mean((1, 3)) * 2
    assert_same_steps(got, np.clip(np.rint(mean) + 99, 0, 255).astype("uint8"))


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_qlinear_conv(data, tmp_path):
    """Random windows, groups, types, scales and zero points."""
    draw = data.draw
    rng = RNG(draw(st.integers(0, 10_000)))
    types, channels = draw(st.sampled_from(FORMS))
    groups, ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    shapes = (
        (draw(st.integers(1, 2)), groups * ins, *(draw(st.integers(5, 12)) for _ in range(2))),
        (groups * outs, ins, *kernel),
    )
    attributes = {
        "group": groups,
        "strides": [draw(st.integers(1, 2)) for _ in range(2)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
    }
    feeds, constants = convolution_parts(rng, shapes, types, channels)
    for name in ("x_z", "y_z"):
        constants[name] = integers(rng, str(constants[name].dtype), ())
    inputs = [*named("x", "w"), "y_s", "y_z", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], **attributes)
    compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path)
