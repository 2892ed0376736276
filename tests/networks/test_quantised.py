"""Quantised networks as integer arithmetic, against ONNX Runtime's arithmetic in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.target import load_target
from tests.networks.check import compile_onnx, runner_of

TARGETS = (
    "host",
    "x86_64",
    "x86_64_v4",
    "x86_64_vnni",
    "arm_cortex_a72",
    "arm_cortex_a76",
    "riscv_spacemit_x60",
)
STORED_TARGETS = (
    "host",
    "x86_64",
    "arm_cortex_a72",
    "arm_cortex_a7",
    "riscv_spacemit_x60",
    "riscv_sifive_u74",
)


class Graph:
    """A QDQ model under construction; tensors are written down as names.

    Args:
        most: greatest magnitude of a weight.
    """

    def __init__(self, shape: tuple[int, ...], activation: str, most: int = 127) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape, self.activation, self.most = shape, activation, most

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def stored(self, x: str, scale: float, zero: int) -> str:
        """x, quantised and dequantised."""
        low = 0 if self.activation == "uint8" else -128
        operands = (
            self.constant(np.float32(scale)),
            self.constant(np.array(zero + low, self.activation)),
        )
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *operands), *operands)

    def weight(self, shape: tuple[int, ...], axis: int) -> str:
        value = self.rng.integers(-self.most, self.most + 1, shape).astype("int8")
        scale = self.rng.uniform(0.002, 0.01, shape[axis]).astype("float32")
        zero = np.zeros(shape[axis], "int8")
        return self.node(
            "DequantizeLinear",
            *(self.constant(v) for v in (value, scale, zero)),
            axis=axis,
        )

    def conv(self, x: str, shape: tuple[int, ...], bias: bool = True, **attributes) -> str:
        operands = [x, self.weight(shape, 0)]
        if bias:
            operands.append(self.constant(self.rng.uniform(-1, 1, shape[0]).astype("float32")))
        return self.node("Conv", *operands, **attributes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "quantised",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model)


def residual(g: Graph) -> tuple[onnx.ModelProto, dict[str, int]]:
    """First layer, pointwise, depthwise, a residual sum, a pool and a classifier."""
    x = g.stored("x", 0.02, 100)
    a = g.stored(g.node("Relu", g.conv(x, (16, 3, 3, 3), strides=[2, 2], pads=[1] * 4)), 0.03, 0)
    b = g.stored(g.node("Relu", g.conv(a, (24, 16, 1, 1))), 0.05, 0)
    c = g.conv(b, (24, 1, 3, 3), group=24, pads=[1] * 4)
    c = g.stored(g.node("Clip", c, g.constant(np.float32(0)), g.constant(np.float32(6))), 0.02, 0)
    d = g.stored(g.conv(c, (16, 24, 1, 1)), 0.04, 120)
    e = g.stored(g.node("Add", a, d), 0.06, 60)
    f = g.stored(g.node("GlobalAveragePool", e), 0.03, 30)
    flat = g.node("Reshape", f, g.constant(np.array([1, 16])))
    y = g.node("MatMul", flat, g.weight((16, 10), 1))
    y = g.stored(g.node("Add", y, g.constant(g.rng.uniform(-1, 1, 10).astype("float32"))), 0.05, 99)
    return g.model(y), {"conv2d_integer": 3, "matmul_integer": 1}


def windows(g: Graph) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Ragged channels, both kinds of border, dilation, and a float result."""
    x = g.stored("x", 0.02, 100)
    a = g.stored(g.conv(x, (13, 3, 3, 3), pads=[1] * 4), 0.05, 120)
    b = g.stored(g.conv(a, (20, 13, 3, 3), dilations=[2, 2], pads=[2] * 4), 0.1, 90)
    c = g.stored(g.node("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 0.1, 90)
    d = g.node("Sigmoid", g.conv(c, (9, 20, 1, 5), pads=[0, 2, 0, 2], bias=False))
    return g.model(d), {"conv2d_integer": 3}


def shuffled(g: Graph) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A unit of a ShuffleNet: the shuffle moves nothing."""
    x = g.stored("x", 0.02, 100)
    a = g.stored(g.node("Relu", g.conv(x, (64, 3, 3, 3), strides=[2, 2], pads=[1] * 4)), 0.03, 0)
    b = g.stored(g.node("Relu", g.conv(a, (64, 32, 1, 1), group=2)), 0.05, 0)
    parts = g.node("Reshape", b, g.constant(np.array([1, 2, 32, 7, 7])))
    parts = g.node("Transpose", parts, perm=[0, 2, 1, 3, 4])
    b = g.node("Reshape", parts, g.constant(np.array([1, 64, 7, 7])))
    c = g.stored(g.conv(b, (64, 1, 3, 3), group=64, pads=[1] * 4), 0.04, 120)
    d = g.stored(g.node("Add", a, g.conv(c, (64, 32, 1, 1), group=2)), 0.06, 60)
    e = g.stored(g.conv(d, (48, 16, 3, 3), group=4, pads=[1] * 4), 0.5, 120)
    return g.model(e), {"conv2d_integer": 4, "conv2d": 0, "elementwise": 3}


def transposed(g: Graph) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Phases of one tap and of two, with borders; ragged channels."""
    x = g.stored("x", 0.02, 100)
    a = g.stored(g.node("Relu", g.conv(x, (24, 3, 3, 3), strides=[2, 2], pads=[1] * 4)), 0.03, 0)
    bias = g.constant(g.rng.uniform(-1, 1, 13).astype("float32"))
    b = g.node("ConvTranspose", a, g.weight((24, 13, 2, 2), 1), bias, strides=[2, 2])
    b = g.stored(g.node("Relu", b), 0.05, 0)
    attributes = {"strides": [2, 2], "output_padding": [1, 1]}
    c = g.node("ConvTranspose", b, g.weight((13, 16, 3, 3), 1), **attributes)
    return g.model(g.stored(c, 0.4, 120)), {"conv2d_integer": 3, "conv2d": 0}


NETWORKS = {
    "residual": residual,
    "windows": windows,
    "shuffled": shuffled,
    "transposed": transposed,
}


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime without optimisation: float arithmetic between quantised tensors."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


# Only on x86 small weights are multiplied by another instruction;
# the others have tests of their own.
CHECKED = [
    *((t, 127, name) for t in TARGETS for name in ("residual", "windows")),
    *((t, 63, name) for t in ("host", "x86_64_v4") for name in ("residual", "windows")),
    ("arm_neoverse_n2", 127, "windows"),
    ("arm_cortex_a7", 127, "residual"),
    *((t, 127, "shuffled") for t in ("host", "arm_cortex_a72", "arm_cortex_a7")),
    *((t, 127, "shuffled") for t in ("arm_cortex_a76", "riscv_spacemit_x60")),
    *((t, 127, "transposed") for t in ("host", "arm_cortex_a72", "riscv_spacemit_x60")),
]


@pytest.mark.parametrize(("target", "most", "name"), CHECKED)
def test_agrees_in_all_but_ties(target, name, most, tmp_path):
    machine = load_target(target)
    activation = "uint8" if machine.arch == "x86_64" else "int8"
    model, templates = NETWORKS[name](Graph((1, 3, 14, 14), activation, most))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    program = compile_onnx(path, machine)
    used = [call.report["template"] for call in program.calls]
    assert {t: used.count(t) for t in templates} == templates
    x = np.random.default_rng(1).uniform(-2, 3, (1, 3, 14, 14)).astype("float32")
    (got,) = runner_of(program, machine, tmp_path).run({"x": x}, 2).values()
    want = reference(path, x)
    # A tie that is rounded the other way moves what comes after it by a fraction of a step.
    step = {"residual": 0.05, "windows": 0.02, "shuffled": 0.5, "transposed": 0.4}[name]
    assert (np.abs(got - want) <= 1.01 * step).mean() >= 0.999
    assert np.abs(got - want).max() <= 3.01 * step


# (input, output channels, kernel, strides, pads, output padding)
UPSAMPLED = {
    "row": ((2, 20, 5), 32, (4,), (4,), (0, 0), (0,)),
    "ragged_row": ((2, 20, 5), 32, (5,), (3,), (2, 1), (0,)),
    "point": ((2, 40, 1, 1), 24, (4, 4), (2, 2), (0, 0, 0, 0), (0, 0)),
    "few_channels": ((1, 3, 4, 7), 16, (3, 2), (3, 2), (0, 0, 0, 0), (0, 0)),
    "half_a_stride": ((1, 16, 5, 6), 24, (4, 4), (2, 2), (1, 1, 1, 1), (0, 0)),
    "uneven": ((1, 16, 5, 4), 24, (5, 7), (2, 3), (3, 4, 0, 2), (1, 2)),
}


@pytest.mark.parametrize("case", UPSAMPLED)
def test_transposed_convolutions_of_any_rank(case, tmp_path):
    machine = load_target("host")
    shape, channels, kernel, strides, pads, extra = UPSAMPLED[case]
    g = Graph(shape, "uint8" if machine.arch == "x86_64" else "int8")
    bias = g.constant(np.ones(channels, "float32"))
    weight = g.weight((shape[1], channels, *kernel), 1)
    attributes = {"strides": strides, "pads": pads, "output_padding": extra}
    y = g.node("ConvTranspose", g.stored("x", 0.02, 100), weight, bias, **attributes)
    path = tmp_path / "model.onnx"
    onnx.save(g.model(g.stored(y, 0.1, 120)), path)
    program = compile_onnx(path, machine)
    used = {call.report["template"] for call in program.calls}
    assert {"conv2d_integer", "interleave"} <= used
    x = np.random.default_rng(1).uniform(-2, 3, shape).astype("float32")
    (got,) = runner_of(program, machine, tmp_path).run({"x": x}, 2).values()
    away = np.abs(got - reference(path, x)) / 0.1
    assert away.max() <= 1.01
    assert (away > 0.5).mean() < 0.005


@pytest.mark.parametrize("target", TARGETS[:2])
def test_activations_of_the_other_sign(target, tmp_path):
    """They are stored as the products take them, moved ones too."""
    machine = load_target(target)
    other = "int8" if machine.arch == "x86_64" else "uint8"
    model, templates = residual(Graph((1, 3, 14, 14), other))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    program = compile_onnx(path, machine)
    used = [call.report["template"] for call in program.calls]
    assert {t: used.count(t) for t in templates} == templates
    x = np.random.default_rng(1).uniform(-2, 3, (1, 3, 14, 14)).astype("float32")
    (got,) = runner_of(program, machine, tmp_path).run({"x": x}, 2).values()
    assert np.abs(got - reference(path, x)).max() <= 0.1501


@pytest.mark.parametrize(
    ("target", "dtype", "depth"),
    [
        *((t, d, 32) for t in TARGETS[:2] for d in ("uint8", "int8")),
        ("riscv_spacemit_x60", "uint8", 32),
        ("host", "uint8", 31),
        ("arm_cortex_a72", "int8", 21),
        ("arm_neoverse_n2", "uint8", 37),
    ],
)
def test_products_of_dynamically_quantised_data(target, dtype, depth, tmp_path):
    """int32 sums, exactly; of a depth that is no whole groups as well."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max + 1, (3, 17, depth)).astype(dtype)
    constants = {
        "b": rng.integers(-127, 128, (depth, 20)).astype("int8"),
        "az": np.array(info.min + 5, dtype),
    }
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "az"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path
    )
    machine = load_target(target)
    program = compile_onnx(path, machine)
    assert "matmul_integer" in [call.report["template"] for call in program.calls]
    (got,) = runner_of(program, machine, tmp_path).run({"a": a}, 2).values()
    centred = a.astype("int64") - int(constants["az"])
    np.testing.assert_array_equal(got, centred @ constants["b"].astype("int64"))


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("target", STORED_TARGETS)
def test_weights_alone_are_bytes(target, rows, tmp_path):
    """Computed in float; the library holds a quarter of the floats."""
    g = Graph((rows, 48), "uint8")
    x = g.node("MatMul", "x", g.weight((48, 37), 1))
    y = g.node("MatMul", g.node("Tanh", x), g.weight((37, 16), 1))
    model = g.model(y)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    machine = load_target(target)
    program = compile_onnx(path, machine)
    assert len(program.weights) < 2 * (48 * 40 + 37 * 16) + 512
    x = np.random.default_rng(1).uniform(-2, 3, (rows, 48)).astype("float32")
    (got,) = runner_of(program, machine, tmp_path).run({"x": x}, 2).values()
    want = reference(path, x)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
