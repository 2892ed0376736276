"""Products of integers and dynamic quantisation: exactly ONNX Runtime's, from 8-bit operands."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tvm import relax

from compiler.frontend import import_model
from tests.frontend.builders import run, save
from tests.frontend.quantised import RNG, compare, integers, qmodel, weights

f32 = np.float32
ANCHORS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d")


def anchors(model, folder) -> list[tuple[str, ...]]:
    """Types of the operands and results of all products."""
    found = []
    for binding in import_model(save(model, folder)).module["main"].body.blocks[0].bindings:
        call = binding.value
        if isinstance(call, relax.Call) and getattr(call.op, "name", "") in ANCHORS:
            found.append(tuple(str(e.ty.dtype) for e in (*call.args, call)))
    return found


ZEROS = ("none", "zero", "constant", "run time")


def matmul(rng, types, shapes, zeros, known):
    """A MatMulInteger and its feeds; ``zeros`` says of each operand how its zero point is given."""
    feeds, constants, inputs = {}, {}, ["a", "b"]
    for name, dtype, shape in zip("ab", types, shapes, strict=True):
        made = integers if name == "a" else weights
        (constants if known and name == "b" else feeds)[name] = made(rng, dtype, shape)
    for name, dtype, kind in zip("ab", types, zeros, strict=True):
        if kind == "none":
            inputs.append("")
            continue
        value = np.zeros((), dtype) if kind == "zero" else integers(rng, dtype, ())
        (feeds if kind == "run time" else constants)[f"{name}z"] = value
        inputs.append(f"{name}z")
    while inputs[-1] == "":
        inputs.pop()
    node = helper.make_node("MatMulInteger", inputs, ["y"])
    return qmodel([node], feeds, ["y"], constants), feeds


def centred(values, model, name):
    """Values minus their zero point, in int64."""
    constants = {t.name: t for t in model.graph.initializer}
    zero = values.get(f"{name}z")
    if zero is None and f"{name}z" in constants:
        zero = numpy_helper.to_array(constants[f"{name}z"])
    value = values[name] if name in values else numpy_helper.to_array(constants[name])
    return value.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))


SHAPES = {
    "matrix": ((7, 33), (33, 9)),
    "batch": ((2, 5, 31), (31, 13)),
    "batches": ((2, 3, 5, 9), (2, 3, 9, 4)),
    "row": ((17,), (17, 5)),
    "column": ((4, 17), (17,)),
}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    a=st.sampled_from(["uint8", "int8"]),
    b=st.sampled_from(["uint8", "int8"]),
    zeros=st.tuples(st.sampled_from(ZEROS), st.sampled_from(ZEROS)),
    known=st.booleans(),
    shape=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 1000),
)
def test_matmul_integer(a, b, zeros, known, shape, seed, tmp_path):
    """All types and zero points; NumPy is the reference, since ONNX Runtime's kernels saturate."""
    model, feeds = matmul(RNG(seed), (a, b), SHAPES[shape], zeros, known)
    (got,) = run(import_model(save(model, tmp_path)), **feeds)
    wanted = centred(feeds, model, "a") @ centred(feeds, model, "b")
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == np.int32
    assert anchors(model, tmp_path) == [(a, "int8", "int32")]


@pytest.mark.parametrize(("a", "b"), [("uint8", "int8"), ("uint8", "uint8")])
def test_zero_points_of_rows_and_columns(a, b, tmp_path):
    rng = RNG(2)
    feeds = {"a": integers(rng, a, (5, 20))}
    constants = {
        "b": weights(rng, b, (20, 6)),
        "bz": integers(rng, b, (6,)),
        "az": integers(rng, a, (5,)),
    }
    node = helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])
    model = qmodel([node], feeds, ["y"], constants)
    (got,) = run(import_model(save(model, tmp_path)), **feeds)
    left = feeds["a"].astype(int) - constants["az"].astype(int)[:, None]
    right = constants["b"].astype(int) - constants["bz"].astype(int)
    np.testing.assert_array_equal(got, left @ right)


CONVOLUTIONS = {
    "plain": ({}, (1, 5, 9, 11), (7, 5, 3, 3)),
    "padded": ({"strides": [2, 2], "pads": [1, 1, 0, 2]}, (2, 3, 8, 9), (5, 3, 3, 3)),
    "depthwise": ({"group": 9, "pads": [1, 1, 1, 1]}, (1, 9, 6, 7), (9, 1, 3, 3)),
    "same": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 7, 7), (3, 4, 3, 3)),
    "row": ({"pads": [2, 1]}, (1, 5, 17), (6, 5, 4)),
}


@pytest.mark.parametrize("zeros", ["none", "constants", "run time", "weights"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv_integer(case, zeros, tmp_path):
    attributes, shape, kernel = CONVOLUTIONS[case]
    rng = RNG(3)
    feeds = {"x": integers(rng, "uint8", shape)}
    constants = {"w": weights(rng, "uint8", kernel)}
    inputs = ["x", "w"]
    if zeros != "none":
        (feeds if zeros == "run time" else constants)["xz"] = np.asarray(121, "uint8")
        constants["wz"] = np.uint8(3 if zeros == "weights" else 128)
        inputs += ["xz", "wz"]
    node = helper.make_node("ConvInteger", inputs, ["y"], **attributes)
    model = qmodel([node], feeds, ["y"], constants)
    assert compare(model, feeds, tmp_path) == [1.0]
    if zeros in ("constants", "run time"):
        assert anchors(model, tmp_path) == [("uint8", "int8", "int32")]


@pytest.mark.parametrize("x", [np.zeros((2, 5), f32), np.full((3, 4), -2.5, f32), None])
def test_dynamic_quantize_linear(x, tmp_path):
    x = RNG(4).normal(size=(7, 33)).astype(f32) * 3 + 1 if x is None else x
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    model = qmodel([node], {"x": x}, ["q", "s", "z"], {})
    assert compare(model, {"x": x}, tmp_path, step=1e-7) == [1.0] * 3


@pytest.mark.parametrize(("dtype", "columns"), list(product(["int8", "uint8"], [False, True])))
def test_dynamic_quantize_matmul(dtype, columns, tmp_path):
    rng = RNG(5)
    count = (9,) if columns else ()
    feeds = {"a": rng.normal(size=(2, 7, 33)).astype(f32)}
    constants = {
        "b": weights(rng, dtype, (33, 9)),
        "s": rng.uniform(0.01, 0.02, count).astype(f32),
        "z": np.full(count, 0 if dtype == "int8" else 131, dtype),
        "bias": rng.normal(size=9).astype(f32),
    }
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["a", "b", "s", "z", "bias"], ["y"], domain="com.microsoft"
    )
    model = qmodel([node], feeds, ["y"], constants)
    (equal,) = compare(model, feeds, tmp_path, step=1e-3)
    assert equal == 1.0
    assert anchors(model, tmp_path) == [("uint8", "int8", "int32")]


def test_matmul_integer_to_float(tmp_path):
    rng = RNG(6)
    feeds = {"a": integers(rng, "uint8", (4, 20)), "as": np.asarray(0.03, f32)}
    feeds["az"] = np.asarray(99, "uint8")
    constants = {"b": weights(rng, "int8", (20, 6)), "bs": rng.uniform(0, 0.1, 6).astype(f32)}
    node = helper.make_node(
        "MatMulIntegerToFloat", ["a", "b", "as", "bs", "az"], ["y"], domain="com.microsoft"
    )
    (equal,) = compare(qmodel([node], feeds, ["y"], constants), feeds, tmp_path, step=1e-4)
    assert equal == 1.0


def test_chain_that_dynamic_quantisation_writes(tmp_path):
    """quantize_dynamic: DynamicQuantizeLinear, MatMulInteger, Cast, scales."""
    rng = RNG(7)
    feeds = {"x": rng.normal(size=(5, 40)).astype(f32)}
    constants = {
        "w": weights(rng, "int8", (40, 7)),
        "ws": np.asarray(0.02, f32),
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["s", "ws"], ["t"]),
        helper.make_node("Mul", ["f", "t"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    assert compare(model, feeds, tmp_path, step=1e-4) == [1.0]
    assert anchors(model, tmp_path) == [("uint8", "int8", "int32")]
