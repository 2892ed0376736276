"""Whole models as ONNX Runtime's quantiser, PyTorch and NNCF write them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from compiler.codegen import compile_module
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.passes.pipeline import simplify
from compiler.passes.sink_dequantize import sink_dequantize
from compiler.target import load_target
from tests.conformance.host import run_on_host, run_program
from tests.frontend.quantised import RNG, assert_same_steps
from tests.passes.test_packing import operators

U8, S8, U16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16


def network() -> onnx.ModelProto:
    """Ragged convolutions with a residual, a concatenation, pools, a gate and a classifier."""
    rng = RNG(30)
    nodes, initializers = [], []

    def add(op: str, *inputs: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def known(*shape: int, scale: float = 1.0) -> str:
        value = (rng.normal(size=shape) * scale).astype("float32")
        initializers.append(numpy_helper.from_array(value, f"w{len(initializers)}"))
        return initializers[-1].name

    def conv(x: str, outs: int, ins: int, size: int, **attributes) -> str:
        fan = ins * size * size
        weight = known(outs, ins, size, size, scale=(2 / fan) ** 0.5)
        pads = [size // 2] * 4
        return add("Conv", x, weight, known(outs, scale=0.1), pads=pads, **attributes)

    x = add("Relu", conv("x", 12, 3, 3, strides=[2, 2]))
    x = add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    left = add("Relu", conv(x, 7, 12, 1))
    right = add("Clip", conv(x, 9, 12, 3), *_bounds(initializers))
    x = add("Concat", left, right, axis=1)
    y = add("Relu", conv(x, 16, 1, 3, group=16))
    x = add("Add", conv(y, 16, 16, 1), x)
    gate = add("Sigmoid", conv(add("GlobalAveragePool", x), 16, 16, 1))
    features = add("Mul", x, gate)
    flat = add("Flatten", add("AveragePool", features, kernel_shape=[2, 2], strides=[2, 2]))
    weight, bias = known(10, 16 * 9, scale=0.1), known(10)
    nodes.append(helper.make_node("Gemm", [flat, weight, bias], ["logits"], transB=1))
    nodes.append(helper.make_node("Identity", [features], ["features"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 24])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 16, 6, 6]),
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _bounds(initializers: list) -> tuple[str, str]:
    for name, value in (("low", 0), ("high", 6)):
        initializers.append(numpy_helper.from_array(np.asarray(value, "float32"), name))
    return "low", "high"


class Samples(CalibrationDataReader):
    def __init__(self) -> None:
        rng = RNG(31)
        shape = (1, 3, 24, 24)
        self.left = [{"x": rng.normal(size=shape).astype("float32")} for _ in range(8)]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def floats(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("floats") / "network.onnx"
    onnx.save(network(), path)
    return path


def reference(path: Path, x: np.ndarray, fused: bool) -> list[np.ndarray]:
    """ONNX Runtime, operator by operator or with its own integer kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_EXTENDED if fused else levels.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(str(path), options).run(None, {"x": x})


def check(path: Path, fused: bool) -> list[str]:
    """Compare outputs on five inputs; the names of the simplified graph's operators."""
    imported, target = import_model(path), load_target("host")
    module = optimize(imported.module, target)
    program = compile_module(module, target, "network", imported.inputs, imported.outputs)
    rng = RNG(32)
    got, wanted = [], []
    for _ in range(5):
        x = rng.normal(size=(1, 3, 24, 24)).astype("float32")
        got.append(run_program(program, [x]))
        wanted.append(reference(path, x, fused))
    scales = output_scales(onnx.load(path))
    for index, scale in enumerate(scales):
        ours, theirs = (np.stack([r[index] for r in results]) for results in (got, wanted))
        assert assert_same_steps(ours, theirs, scale) > 0.8
    return operators(sink_dequantize(simplify(imported.module, target)))


def output_scales(model: onnx.ModelProto) -> list[float]:
    """What a step of each output is worth: the scale of what makes it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: t for t in model.graph.initializer}
    scales = []
    for output in model.graph.output:
        node = makers[output.name]
        while node.op_type not in ("DequantizeLinear", "QGemm"):
            node = makers[node.input[0]]
        scales.append(float(numpy_helper.to_array(constants[node.input[1]])))
    return scales


STATIC = {
    "QDQ U8S8 channels": (QuantFormat.QDQ, U8, S8, True),
    "QDQ S8S8": (QuantFormat.QDQ, S8, S8, False),
    "QOperator U8S8 channels": (QuantFormat.QOperator, U8, S8, True),
    "QOperator U8U8": (QuantFormat.QOperator, U8, U8, False),
    "QDQ U16U8": (QuantFormat.QDQ, U16, U8, False),
}


@pytest.mark.parametrize("name", STATIC)
def test_onnx_runtimes_static_quantisation(name, floats, tmp_path):
    form, activations, kernels, channels = STATIC[name]
    path = tmp_path / "quantised.onnx"
    quantize_static(
        floats,
        path,
        Samples(),
        quant_format=form,
        activation_type=activations,
        weight_type=kernels,
        per_channel=channels,
        reduce_range=kernels == S8 and activations == U8,  # its AVX2 kernels saturate
    )
    names = check(path, fused=form == QuantFormat.QOperator)
    for moved in ("concat", "reshape", "nn.max_pool2d"):
        assert moved in names
    assert "nn.relu" not in names  # saturation does it


def trained(style: str) -> onnx.ModelProto:
    """What is exported after training with quantisation: weights are floats in front of Q and DQ.

    PyTorch writes them per channel, and a clip for seven bits; NNCF quantises per tensor, with
    signed activations where there are negative values.
    """
    rng = RNG(33)
    torch = style == "torch"
    nodes, constants = [], {}

    def add(op: str, *inputs: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def known(value) -> str:
        constants[f"c{len(constants)}"] = np.asarray(value)
        return list(constants)[-1]

    def rounded(x: str, scale, zero, seven_bits: bool = False, **axis) -> str:
        quantum = known(np.asarray(scale, "float32")), known(zero)
        x = add("QuantizeLinear", x, *quantum, **axis)
        if seven_bits:
            x = add("Clip", x, known(np.uint8(0)), known(np.uint8(127)))
        return add("DequantizeLinear", x, *quantum, **axis)

    def weight(*shape: int) -> str:
        value = (rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5).astype("float32")
        if not torch:
            return rounded(known(value), abs(value).max() / 127, np.int8(0))
        scales = abs(value).reshape(shape[0], -1).max(1) / 127
        return rounded(known(value), scales, np.zeros(shape[0], np.int8), axis=0)

    zero = np.uint8(121) if torch else np.int8(0)
    x = rounded("x", 0.027, zero)
    x = add("Conv", x, weight(8, 3, 3, 3), known(rng.normal(size=8).astype("float32")))
    x = rounded(add("Relu", x), 0.04 if torch else 0.03, np.uint8(0), seven_bits=torch)
    x = rounded(add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.04, np.uint8(0))
    x = add("Reshape", x, known(np.asarray([1, -1])))
    if torch:
        x = add("Gemm", x, weight(10, 8 * 121), transB=1)
    else:
        x = add("MatMul", x, add("Transpose", weight(10, 8 * 121), perm=[1, 0]))
    nodes[-1].output[0] = "before"
    quantum = known(np.asarray(0.05, "float32")), known(np.uint8(128))
    nodes.append(helper.make_node("QuantizeLinear", ["before", *quantum], ["integers"]))
    nodes.append(helper.make_node("DequantizeLinear", ["integers", *quantum], ["logits"]))
    graph = helper.make_graph(
        nodes,
        style,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 24])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("style", ["torch", "nncf"])
def test_trained_with_quantisation(style, tmp_path):
    path = tmp_path / "trained.onnx"
    onnx.save(trained(style), path)
    names = check(path, fused=False)
    product = names.index("matmul")
    pool, reshape = names.index("nn.max_pool2d"), names.index("reshape")
    assert names.index("quantize", 1) < pool < reshape < product  # of integers
    assert "relax.permute_dims" not in names
    assert "nn.relu" not in names


def test_onnx_runtimes_dynamic_quantisation(tmp_path):
    rng = RNG(34)
    sizes = (33, 40, 12)
    nodes, initializers, x = [], [], "x"
    for index, (ins, outs) in enumerate(pairwise(sizes)):
        value = rng.normal(size=(ins, outs)).astype("float32")
        initializers.append(numpy_helper.from_array(value, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{index}"], [f"m{index}"]))
        nodes.append(helper.make_node("Tanh", [f"m{index}"], [f"a{index}"]))
        x = f"a{index}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "products",
        [info("x", TensorProto.FLOAT, [2, 7, 33])],
        [info(x, TensorProto.FLOAT, [2, 7, 12])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "f.onnx")
    path = tmp_path / "q.onnx"
    quantize_dynamic(tmp_path / "f.onnx", path, weight_type=S8, per_channel=True, reduce_range=True)
    imported = import_model(path)
    names = operators(simplify(imported.module, load_target("host")))
    assert names.count("matmul") == 2
    x = rng.normal(size=(2, 7, 33)).astype("float32")
    (got,) = run_on_host(imported, [x])
    assert_same_steps(got, reference(path, x, fused=False)[0], 1e-2)
