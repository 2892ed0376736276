"""--quantize bfloat16: products of bfloat16 summed in float32, against ONNX Runtime in float32."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tvm import relax

import compiler
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.package import open_package
from compiler.package.runner import Runner
from compiler.passes import simplify
from compiler.quantize.bfloat16 import to_bfloat16
from compiler.quantize.float16 import narrow
from compiler.quantize.recipe import Recipe, Rule
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx
from tests.quantize.test_float16 import dtypes, network

TARGET = "arm_neoverse_n2"
# (input channels, output channels, height, width, kernel, stride, dilation)
CONVOLUTIONS = {
    "pointwise": (24, 40, 5, 7, 1, 1, 1),
    "window": (16, 33, 6, 9, 3, 1, 1),
    "stride": (32, 32, 9, 11, 3, 2, 1),
    "first": (3, 24, 11, 13, 3, 2, 1),
    "dilated": (20, 31, 8, 7, 3, 1, 2),
    "point": (40, 24, 1, 1, 1, 1, 1),
}
# (rows, depth, columns)
PRODUCTS = {"row": (1, 34, 29), "rows": (7, 32, 48)}


def narrowed(path: Path, recipe: Recipe | None = None):
    machine = load_target(TARGET)
    module = simplify(import_model(path).module, machine)
    return narrow(module, machine, recipe, precision="bfloat16")


def test_products_read_bfloat16_and_all_else_is_float32(tmp_path):
    found = narrowed(network(tmp_path / "m.onnx"))
    kinds = dtypes(found.half.module)
    assert kinds["conv2d"] == ["float32"] * 4
    assert kinds["max_pool2d"] == kinds["softmax"] == ["float32"]
    # what the stem, "point", "wide" and the logits read
    assert kinds["astype"] == ["bfloat16"] * 4
    operands = [
        [str(a.ty.dtype) for a in binding.value.args]
        for block in found.half.module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and "conv2d" in binding.value.op.name
    ]
    assert operands == [
        ["bfloat16"] * 2,
        ["float32"] * 2,
        ["bfloat16"] * 2,
        ["bfloat16"] * 2,
    ]
    assert found.summary() == {"bfloat16": 4, "float32": 1}


def test_readers_see_what_is_stored_but_outputs_are_not_rounded(tmp_path):
    b = Builder()
    x = b.node("Relu", b.conv("x", 16, 16, name="first"), name="stored")
    y = b.node("Add", b.conv(x, 16, 16, name="second"), x, name="sum")
    b.conv(y, 16, 16, name="third")
    path = b.save(
        tmp_path / "m.onnx",
        {"x": (1, 16, 8, 8)},
        {"sum": (1, 16, 8, 8), "third": (1, 16, 8, 8)},
    )
    # x, "stored" both ways, "sum" for the third convolution
    kinds = dtypes(narrowed(path).half.module)
    assert kinds["astype"] == ["bfloat16", "bfloat16", "float32", "bfloat16"]


def test_a_rule_keeps_operators_in_float32(tmp_path):
    recipe = Recipe((Rule("*", "bfloat16"), Rule("conv2d", "float32")))
    found = narrowed(network(tmp_path / "m.onnx"), recipe)
    assert found.summary() == {"bfloat16": 1, "float32": 4}


def test_what_gains_nothing_stays_float32(tmp_path):
    """One input channel in four, four output channels in sixteen, an odd depth."""
    b = Builder()
    b.conv("gray", 1, 16, name="a")
    b.conv("x", 16, 4, k=1, name="b")
    b.node("MatMul", "rows", b.weight(33, 16), name="c")
    shapes = {"gray": (1, 1, 16, 16), "x": (1, 16, 8, 8), "rows": (8, 33)}
    outputs = {"a": (1, 16, 16, 16), "b": (1, 4, 8, 8), "c": (8, 16)}
    found = narrowed(b.save(tmp_path / "m.onnx", shapes, outputs))
    assert found.summary() == {"bfloat16": 0, "float32": 3}


def test_rounding_is_to_nearest_even_and_keeps_finite_numbers_finite():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -np.inf, 1e-40], "float32")
    rounded = to_bfloat16(values).astype("float32")
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert rounded.tolist()[:4] == [1.0, 1 + 2**-6, largest, -np.inf]
    assert abs(rounded[4] - values[4]) <= 2.0**-134


def products(path: Path) -> Path:
    """All of them side by side, each of an input of its own."""
    b = Builder()
    inputs, outputs = {}, {}
    for name, (ic, oc, height, width, k, stride, dilation) in CONVOLUTIONS.items():
        pads = [k // 2 * dilation] * 4
        attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads}
        b.node("Conv", f"of_{name}", b.weight(oc, ic, k, k), name=name, **attributes)
        inputs[f"of_{name}"] = (1, ic, height, width)
        outputs[name] = (1, oc, -(-height // stride), -(-width // stride))
    for name, (rows, depth, columns) in PRODUCTS.items():
        b.node("MatMul", f"of_{name}", b.weight(depth, columns), name=name)
        inputs[f"of_{name}"], outputs[name] = (rows, depth), (rows, columns)
    return b.save(path, inputs, outputs)


def magnitudes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the magnitudes of its weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(abs(numpy_helper.to_array(tensor)), tensor.name))
    return copy


def check_products(path: Path, package, runner: Runner) -> None:
    """Outputs are as near to ONNX Runtime's in float32 as the rounding of operands allows.

    Each operand is off by 2^-8 of itself at most, a product of two by 2^-7 + 2^-16, and a sum of K
    of them by K * 2^-23 of the sum of their magnitudes more.
    """
    rng = np.random.default_rng(1)
    shapes = {t.name: t.shape for t in package.inputs}
    inputs = {n: rng.standard_normal(s).astype("float32") for n, s in shapes.items()}
    for values in inputs.values():
        values *= np.exp2(rng.integers(-20, 20, values.shape)).astype("float32")
    got = runner.verify(inputs, threads=1)
    model = onnx.load(path)
    wanted = run_onnx(model, inputs)
    bounds = run_onnx(magnitudes(model), {n: abs(v) for n, v in inputs.items()})
    deepest = 20 * 9
    for info, want, bound in zip(package.outputs, wanted, bounds, strict=True):
        allowed = (2.0**-7 + 2.0**-16 + deepest * 2.0**-22) * bound
        assert (abs(got[info.name] - want) <= allowed).all(), info.name
        assert (abs(got[info.name] - want) > 2.0**-14 * bound).any(), "computed in float32"


def test_products_are_within_the_bound_of_eight_bits(tmp_path):
    path = products(tmp_path / "m.onnx")
    result = compiler.build(
        path, TARGET, tmp_path / "p", quantize="bfloat16", verify=False, tuning_logs=()
    )
    rows = [r for r in result.receipt["operators"] if r["macs"]]
    assert {r["executed_dtype"] for r in rows} == {"bfloat16"}
    intrinsics = [r["intrinsic"] for r in rows]
    assert intrinsics.count("neon_bfmmla") == 6
    assert intrinsics.count("neon_bfdot") == 2
    package = open_package(result.path)
    check_products(path, package, Runner(package))


def test_a_network_is_verified_against_float32(tmp_path):
    """1 / (|x| + one) of lanes without a one is infinite, and zero times that is no number."""
    b = Builder()
    b.weights.append(numpy_helper.from_array(np.ones((1, 20, 1, 1), "float32"), "one"))
    x = b.node("Add", b.node("Abs", b.conv("x", 16, 20, name="first")), "one")
    x = b.conv(b.node("Reciprocal", x, name="infinite"), 20, 16, name="second")
    x = b.conv(b.conv(x, 16, 16, name="depthwise", group=16), 16, 16, k=1, name="third")
    x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", x)))
    b.node("Softmax", b.node("MatMul", x, b.weight(16, 32), name="logits"), name="y", axis=-1)
    path = b.save(tmp_path / "m.onnx", {"x": (1, 16, 7, 7)}, {"y": (1, 32)})
    result = compiler.build(path, TARGET, tmp_path / "p", quantize="bfloat16", tuning_logs=())
    assert result.verification.passed
    (check,) = result.verification.outputs
    assert 2**-8 <= check.tolerance < 0.05
    entry = result.manifest["quantization"]
    assert (entry["precision"], entry["largest"]) == ("bfloat16", None)
    assert entry["operators"] == {"bfloat16": 4, "float32": 1}
    assert entry["sqnr_db"]["y"] > 35
    assert [t.dtype for t in open_package(result.path).outputs] == ["float32"]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("x86_64_v3", {}, "x86_64_v3 has no products of bfloat16"),
        ("arm_neoverse_n1", {}, "arm_neoverse_n1 has no products of bfloat16"),
        (TARGET, {"io": "quantized"}, "inputs and outputs are float32"),
        (TARGET, {"recipe": Recipe((Rule("*", "float16"),))}, "asks for float16"),
    ],
)
def test_what_is_impossible_is_refused(tmp_path, target, options, message):
    path = network(tmp_path / "m.onnx")
    with pytest.raises(EdgeccError, match=message) as caught:
        compiler.build(path, target, tmp_path / "p", quantize="bfloat16", **options)
    assert caught.value.hint
    assert not (tmp_path / "p").exists()
