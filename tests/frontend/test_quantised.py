"""QuantizeLinear and DequantizeLinear, and what becomes of weights behind them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from compiler.frontend import import_model
from tests.frontend.builders import run, save
from tests.frontend.quantised import (
    CONVOLUTIONS,
    MICROSOFT,
    RNG,
    TYPES,
    compare,
    conv_weight,
    convolution_parts,
    f32,
    integers,
    name_of,
    named,
    qdq,
    qmodel,
    quantum,
    weights,
)
from tests.frontend.test_graph import operators


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


def test_zero_points_that_are_left_out(tmp_path):
    """Then they are 0, of the type of the data; QuantizeLinear makes uint8."""
    constants = {"s": f32(0.05), "t": f32(0.04)}
    feeds = {"x": integers(RNG(12), "int8", (3, 40))}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "t"], ["y"]),
    ]
    (equal,) = compare(qmodel(nodes, feeds, ["y"], constants), feeds, tmp_path)
    assert equal >= 0.9  # a quarter are ties, and 1.25 is no float quotient
    node = helper.make_node("QLinearLeakyRelu", ["x", "s", "", "t"], ["y"], **MICROSOFT)
    model = qmodel([node], feeds, ["y"], constants)  # ONNX Runtime crashes
    (got,) = run(import_model(save(model, tmp_path)), **feeds)
    real = feeds["x"] * f32(0.05)
    real = np.where(real < 0, real * f32(0.01), real)
    want = np.rint(real / f32(0.04)).clip(-128, 127).astype("int8")
    assert got.dtype == want.dtype
    # A product with 1 / 0.04 is not the quotient: ties differ.
    assert np.abs(got.astype(int) - want).max() <= 1
    assert (got == want).mean() >= 0.8


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantize_and_dequantize(dtype, axis, tmp_path):
    """Integers are outputs, and inputs of a second graph; every one is as ONNX Runtime has it."""
    rng, shape = RNG(13), (5, 6, 4)
    count = () if axis is None else shape[axis]
    constants = {
        "s": rng.uniform(0.001, 0.01, count).astype(f32),
        "z": integers(rng, dtype, () if axis is None else (count,)),
    }
    attributes = {} if axis is None else {"axis": axis}
    feeds = {"x": (rng.normal(size=shape) * 3).astype(f32)}
    quantize = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes)
    (equal,) = compare(qmodel([quantize], feeds, ["y"], constants), feeds, tmp_path)
    assert equal == 1.0
    feeds = {"x": integers(rng, dtype, shape)}
    dequantize = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], **attributes)
    (equal,) = compare(qmodel([dequantize], feeds, ["y"], constants), feeds, tmp_path, step=1e-6)
    assert equal == 1.0


def test_scales_known_at_run_time_alone(tmp_path):
    rng = RNG(14)
    feeds = {"x": rng.normal(size=(3, 50)).astype(f32), "s": np.asarray(0.05, f32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y", "q"], {"z": np.int8(5)})
    assert compare(model, feeds, tmp_path, step=0.05) == [1.0, 1.0]


def test_gather_of_stored_rows(tmp_path):
    rng = RNG(15)
    constants = {
        **quantum("w", rng.uniform(0.001, 0.01, 12), np.zeros(12, np.int8)),
        "w": weights(rng, "int8", (30, 12)),
    }
    feeds = {"i": np.asarray([[3, 29, 0], [7, 7, -1]])}
    nodes = [
        helper.make_node("DequantizeLinear", named("w"), ["r"], axis=1),
        helper.make_node("Gather", ["r", "i"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    assert compare(model, feeds, tmp_path, step=1e-6) == [1.0]
    main = import_model(save(model, tmp_path)).module["main"]
    names = [name_of(b.value) for b in main.body.blocks[0].bindings]
    assert names[-2:] == ["relax.dequantize", ""]


def test_weights_quantised_in_the_graph(tmp_path):
    """Trained with quantisation: float weights between QuantizeLinear and DequantizeLinear."""
    rng = RNG(16)
    w = rng.normal(size=(6, 3, 3, 3)).astype(f32)
    scale = (abs(w).max((1, 2, 3)) / 127).astype(f32)
    constants = {
        **quantum("x", 0.03, np.uint8(120)),
        **quantum("w", scale, np.zeros(6, np.int8)),
        **quantum("y", 0.1, np.uint8(128)),
        "weight": w,
    }
    feeds = {"input": rng.normal(size=(1, 3, 8, 8)).astype(f32)}
    nodes = [
        *qdq("x", "input"),
        helper.make_node("QuantizeLinear", ["weight", "w_s", "w_z"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", named("w"), ["w_r"], axis=0),
        helper.make_node("Conv", ["x_r", "w_r"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        *qdq("y", "r"),
    ]
    model = qmodel(nodes, feeds, ["y_r"], constants)
    compare(model, feeds, tmp_path, step=0.1)
    weight = conv_weight(import_model(save(model, tmp_path)))
    assert weight.op.name == "relax.dequantize"
    stored = np.rint(w / scale.reshape(-1, 1, 1, 1))
    np.testing.assert_array_equal(weight.args[0].value.numpy(), stored)


def test_weights_of_uint8_become_int8(tmp_path):
    rng = RNG(17)
    constants = {
        **quantum("w", 0.02, np.uint8(131)),
        "w": weights(rng, "uint8", (9, 4)),
    }
    feeds = {"x": rng.normal(size=(3, 9)).astype(f32)}
    nodes = [
        helper.make_node("DequantizeLinear", named("w"), ["w_r"]),
        helper.make_node("MatMul", ["x", "w_r"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    compare(model, feeds, tmp_path, step=0.03)  # ONNX Runtime quantises x here
    weight = conv_weight(import_model(save(model, tmp_path)))
    stored, _, zero = (a.value.numpy() for a in weight.args)
    np.testing.assert_array_equal(stored, constants["w"].astype(int) - 128)
    assert zero == 3
    assert zero.dtype == np.int8


@pytest.mark.parametrize("behind", ["Transpose", "Reshape"])
def test_weights_that_are_moved_stay_integers(behind, tmp_path):
    rng = RNG(18)
    constants = {
        **quantum("w", rng.uniform(0.01, 0.02, 5), np.zeros(5, np.int8)),
        "w": weights(rng, "int8", (5, 3, 3) if behind == "Reshape" else (5, 9)),
        "target": np.asarray([5, 9]),
    }
    feeds = {"x": rng.normal(size=(3, 9)).astype(f32)}
    nodes = [helper.make_node("DequantizeLinear", named("w"), ["w_r"], axis=0)]
    if behind == "Reshape":
        nodes += [helper.make_node("Reshape", ["w_r", "target"], ["w_m"])]
        nodes += [helper.make_node("Gemm", ["x", "w_m"], ["y"], transB=1)]
    else:
        nodes += [helper.make_node("Transpose", ["w_r"], ["w_m"])]
        nodes += [helper.make_node("MatMul", ["x", "w_m"], ["y"])]
    model = qmodel(nodes, feeds, ["y"], constants)
    compare(model, feeds, tmp_path, step=1e-4)
    weight = conv_weight(import_model(save(model, tmp_path)))
    assert weight.attrs.axis == 1
    expected = constants["w"].reshape(5, 9).T
    np.testing.assert_array_equal(weight.args[0].value.numpy(), expected)


def test_known_operands_of_arithmetic_become_floats(tmp_path):
    constants = {
        **quantum("w", 0.02, np.int8(0)),
        "w": weights(RNG(19), "int8", (7,)),
    }
    feeds = {"x": RNG(20).normal(size=(3, 7)).astype(f32)}
    nodes = [
        helper.make_node("DequantizeLinear", named("w"), ["w_r"]),
        helper.make_node("Mul", ["x", "w_r"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    compare(model, feeds, tmp_path, step=1e-6)
    assert operators(import_model(save(model, tmp_path))) == ["relax.multiply"]


@pytest.mark.parametrize("scale", [0.0, -0.5, np.inf])
def test_scales_that_are_no_positive_numbers_stay_arithmetic(scale, tmp_path):
    constants = quantum("q", scale, np.int8(3))
    feeds = {"q": integers(RNG(21), "int8", (3, 7))}
    model = qmodel(
        [helper.make_node("DequantizeLinear", named("q"), ["y"])], feeds, ["y"], constants
    )
    assert "relax.dequantize" not in operators(import_model(save(model, tmp_path)))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("channels", [False, True])
def test_weights_dequantised_by_arithmetic(dtype, channels, tmp_path):
    """Mul(Sub(Cast(integers), zero point), scale)."""
    rng = RNG(22)
    shape = (1, 6) if channels else ()
    constants = {
        "w": weights(rng, dtype, (9, 6)),
        "z": integers(rng, dtype, shape).astype(f32),
        "s": rng.uniform(0.01, 0.02, shape).astype(f32),
    }
    feeds = {"x": rng.normal(size=(3, 9)).astype(f32)}
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=1),
        helper.make_node("Sub", ["f", "z"], ["c"]),
        helper.make_node("Mul", ["s", "c"], ["r"]),
        helper.make_node("MatMul", ["x", "r"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    compare(model, feeds, tmp_path, step=1e-4)
    weight = conv_weight(import_model(save(model, tmp_path)))
    assert weight.op.name == "relax.dequantize"
    stored, scale, zero = (a.value.numpy() for a in weight.args)
    assert stored.dtype == np.int8
    shift = 0 if dtype == "int8" else 128
    np.testing.assert_array_equal(stored, constants["w"].astype(int) - shift)
    np.testing.assert_array_equal(zero, constants["z"].reshape(zero.shape) - shift)
    np.testing.assert_array_equal(scale, constants["s"].reshape(scale.shape))


def test_arithmetic_that_is_no_dequantisation(tmp_path):
    """A zero point between two integers, scales along two axes, a negative scale."""
    rng = RNG(23)
    whole = np.ones((9, 6), f32)
    for zero, scale in ((0.5, f32(1)), (3, whole), (3, -f32(0.1)), (200, f32(1))):
        constants = {"w": weights(rng, "int8", (9, 6)), "z": f32(zero), "s": scale}
        feeds = {"x": rng.normal(size=(3, 9)).astype(f32)}
        nodes = [
            helper.make_node("Cast", ["w"], ["f"], to=1),
            helper.make_node("Sub", ["f", "z"], ["c"]),
            helper.make_node("Mul", ["c", "s"], ["r"]),
            helper.make_node("MatMul", ["x", "r"], ["y"]),
        ]
        model = qmodel(nodes, feeds, ["y"], constants)
        compare(model, feeds, tmp_path, step=1e-3)
        assert operators(import_model(save(model, tmp_path))) == ["relax.matmul"]


def test_channels_of_zeros_have_the_scale_zero(tmp_path):
    rng = RNG(24)
    constants = {
        **quantum("w", [0.1, 0.0, 0.2, 0.3], np.asarray([0, 5, 0, 0], np.int8)),
        "w": weights(rng, "int8", (4, 3, 1, 1)),
    }
    feeds = {"x": rng.normal(size=(1, 3, 5, 5)).astype(f32)}
    nodes = [
        helper.make_node("DequantizeLinear", named("w"), ["r"], axis=0),
        helper.make_node("Conv", ["x", "r"], ["y"]),
    ]
    model = qmodel(nodes, feeds, ["y"], constants)
    assert compare(model, feeds, tmp_path, step=1e-4) == [1.0]
    weight = conv_weight(import_model(save(model, tmp_path)))
    assert (weight.args[1].value.numpy() > 0).all()
    assert (weight.args[0].value.numpy()[1] == 5).all()


def test_integers_at_both_ends(tmp_path):
    """Nothing is left to compute, the same integers are wanted twice, floats and integers both."""
    constants = {**quantum("q", 0.05, np.uint8(117)), "target": np.asarray([7, 3])}
    parameters = ["q_s", "q_z"]
    stored = {"x": integers(RNG(25), "uint8", (3, 7))}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", *parameters], ["r"]),
        helper.make_node("Reshape", ["r", "target"], ["s"]),
        helper.make_node("QuantizeLinear", ["r", *parameters], ["a"]),
        helper.make_node("QuantizeLinear", ["s", *parameters], ["b"]),
        helper.make_node("QuantizeLinear", ["s", *parameters], ["c"]),
    ]
    for outputs in (["a"], ["b", "s"], ["a", "b", "c", "r"]):
        model = qmodel(nodes, stored, outputs, constants)
        assert compare(model, stored, tmp_path) == [1.0] * len(outputs)


def test_integers_that_are_no_quantised_tensors(tmp_path):
    """What quantize makes may be counted with; an operator of integers is no operator of floats."""
    constants = quantum("q", 0.05, np.uint8(117))
    feeds = {"x": RNG(26).normal(size=(3, 7)).astype(f32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "q_s", "q_z"], ["q"]),
        helper.make_node("Cast", ["q"], ["i"], to=6),
        helper.make_node("Add", ["i", "i"], ["y"]),
        helper.make_node("Max", ["q", "q_z"], ["m"]),
    ]
    assert compare(qmodel(nodes, feeds, ["y", "m"], constants), feeds, tmp_path) == [1.0, 1.0]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_transposed_convolution(groups, strides, tmp_path):
    rng = RNG(27)
    constants = {
        **quantum("w", rng.uniform(0.01, 0.02, 5), np.zeros(5, np.int8)),
        **quantum("x", 0.05, np.uint8(117)),
        **quantum("y", 0.5, np.uint8(117)),
        "w": weights(rng, "int8", (6, 5, 3, 3)),
    }
    feeds = {"x": integers(rng, "uint8", (1, 6, 7, 8))}
    attributes = {"group": groups, "strides": strides, "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("DequantizeLinear", named("x"), ["x_r"]),
        helper.make_node("DequantizeLinear", named("w"), ["w_r"], axis=1),
        helper.make_node("ConvTranspose", ["x_r", "w_r"], ["t"], **attributes),
        helper.make_node("QuantizeLinear", ["t", "y_s", "y_z"], ["y"]),
    ]
    (equal,) = compare(qmodel(nodes, feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97


def test_batch_normalisation_behind_a_quantised_convolution(tmp_path):
    """As networks come that were trained with quantisation and not fused."""
    rng = RNG(28)
    feeds, constants = convolution_parts(rng, ((1, 6, 9, 9), (5, 6, 3, 3)), "U8S8", True)
    for name in ("gain", "shift", "mean"):
        constants[name] = rng.normal(size=5).astype(f32)
    constants["variance"] = rng.uniform(0.5, 2, 5).astype(f32)
    normal = ["c", "gain", "shift", "mean", "variance"]
    nodes = [
        helper.make_node("DequantizeLinear", named("x"), ["x_r"]),
        helper.make_node("DequantizeLinear", named("w"), ["w_r"], axis=0),
        helper.make_node("Conv", ["x_r", "w_r"], ["c"]),
        helper.make_node("BatchNormalization", normal, ["n"]),
        helper.make_node("QuantizeLinear", ["n", "y_s", "y_z"], ["y"]),
    ]
    (equal,) = compare(qmodel(nodes, feeds, ["y"], constants), feeds, tmp_path)
    assert equal > 0.97
