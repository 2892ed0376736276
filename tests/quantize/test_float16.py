"""``--quantize float16``: what is narrowed, what it is worth, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tvm import relax

import compiler
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.package import open_package
from compiler.package.verify import difference, load_golden
from compiler.passes import lower, simplify
from compiler.quantize.float16 import narrow
from compiler.quantize.half import LARGEST, to_float16
from compiler.quantize.recipe import DEFAULT_HALF, Recipe, Rule
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx
from tests.schedules.inner_loop_cases import CASES, hot
from tests.schedules.inner_loops import inner_loops

TARGET = "arm_cortex_a55"


def network(path: Path, gain: float = 1.0) -> Path:
    """A stem, depthwise, Winograd, a residual sum, a hard-swish, both pools, a product, softmax."""
    b = Builder()
    x = b.node("Relu", b.conv("x", 3, 16, name="stem", strides=[2, 2]))
    y = b.node("HardSwish", b.conv(x, 16, 16, name="depthwise", group=16))
    y = b.node("Add", b.conv(y, 16, 16, k=1, name="point"), x, name="sum")
    y = b.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = b.node("Relu", b.conv(y, 16, 24, name="wide"))
    b.weights.append(numpy_helper.from_array(np.float32(gain), "gain"))
    y = b.node("Mul", y, "gain", name="scaled")
    y = b.node("Flatten", b.node("GlobalAveragePool", y))
    b.node("Softmax", b.node("MatMul", y, b.weight(24, 10), name="logits"), name="y", axis=-1)
    return b.save(path, {"x": (1, 3, 33, 33)}, {"y": (1, 10)})


def dtypes(module) -> dict[str, list[str]]:
    """Of the results of each operator of a Relax module, in order."""
    found: dict[str, list[str]] = {}
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                name = binding.value.op.name.removeprefix("relax.").removeprefix("nn.")
                found.setdefault(name, []).append(str(binding.value.ty.dtype))
    return found


def narrowed(path: Path, recipe: Recipe | None = None, half_io: bool = False):
    machine = load_target(TARGET)
    return narrow(simplify(import_model(path).module, machine), machine, recipe, half_io)


def test_sums_and_softmax_stay_float32(tmp_path):
    found = dtypes(narrowed(network(tmp_path / "m.onnx")).half.module)
    assert found["conv2d"] == ["float16"] * 4
    assert found["matmul"] == ["float16"]
    assert found["max_pool2d"] == ["float16"]
    assert found["mean"] == ["float32"]
    assert found["softmax"] == ["float32"]
    # the input, the mean and the logits
    assert found["astype"] == ["float16", "float32", "float16", "float32"]


def test_squares_and_what_is_computed_from_them_stay_float32(tmp_path):
    b = Builder()
    y = b.node("MatMul", "x", b.weight(8, 8), name="product")
    centred = b.node("Sub", y, b.node("ReduceMean", y, axes=[-1]))
    b.node("Mul", centred, centred, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (4, 8)}, {"y": (4, 8)}, opset=13)
    found = dtypes(narrowed(path).half.module)
    assert found["matmul"] == ["float16"]
    assert found["mean"] == found["subtract"] == found["multiply"] == ["float32"]


def test_a_rule_keeps_operators_in_float32(tmp_path):
    recipe = Recipe((Rule("*", "float16"), Rule("conv2d", "float32")))
    found = narrowed(network(tmp_path / "m.onnx"), recipe)
    assert dtypes(found.half.module)["conv2d"] == ["float32"] * 4
    assert dtypes(found.half.module)["matmul"] == ["float16"]
    assert found.summary() == {"float16": 1, "float32": 4}


def test_constants_saturate_and_infinities_stay():
    values = np.array([1e6, -3.4e38, np.inf, 1 / 3], "float32")
    assert to_float16(values).tolist() == [LARGEST, -LARGEST, np.inf, np.float16(1 / 3)]


def test_packed_layouts_have_as_many_channels_as_a_register(tmp_path):
    """A tensor between two convolutions is [1, 16 / 8, 17, 17, 8]."""
    machine = load_target(TARGET)
    module = lower(narrowed(network(tmp_path / "m.onnx")).half.module, machine)
    shapes = {tuple(int(d) for d in f.params[-1].ty.shape) for f in module.functions.values()}
    assert (1, 2, 17, 17, 8) in shapes


@pytest.fixture(scope="module", params=[TARGET, "riscv_spacemit_x60"])
def built(tmp_path_factory, request):
    """The network in both precisions, verified under emulation against ONNX Runtime."""
    folder, target = tmp_path_factory.mktemp("half"), request.param
    path = network(folder / "m.onnx")
    wide = compiler.build(path, target, folder / "wide", verify=False, tuning_logs=())
    half = compiler.build(
        path, target, folder / "half", quantize="float16", io="quantized", tuning_logs=()
    )
    return path, wide, half


def test_weights_and_tensors_are_half_as_large(built):
    """But for lanes without a channel: registers of 256 bits hold 16 of them."""
    _, wide, half = built
    most = 0.55 if half.manifest["target"]["name"] == TARGET else 0.7
    assert half.manifest["weights_bytes"] < most * wide.manifest["weights_bytes"]
    rows, wide_rows = half.receipt["operators"], wide.receipt["operators"]
    assert sum(r["nbytes"] for r in rows) < most * sum(r["nbytes"] for r in wide_rows)
    assert {row["executed_dtype"] for row in rows if row["macs"]} == {"float16"}
    assert half.manifest["flops_per_cycle"] == 2 * wide.manifest["flops_per_cycle"]


def test_the_library_agrees_with_float32(built):
    """Golden outputs are ONNX Runtime's in float32; the tolerance is a few steps of float16."""
    path, _, half = built
    assert half.verification.passed
    (check,) = half.verification.outputs
    assert 2**-11 <= check.tolerance < 0.02
    package = open_package(half.path)
    assert [t.dtype for t in (*package.inputs, *package.outputs)] == ["float16"] * 2
    inputs, outputs = load_golden(package)
    (wanted,) = run_onnx(onnx.load(path), {"x": inputs["x"].astype("float32")})
    assert difference(outputs["y"].astype("float32"), wanted) < 0.01
    entry = half.manifest["quantization"]
    assert entry["precision"] == "float16"
    assert entry["operators"] == {"float16": 5, "float32": 0}
    assert entry["sqnr_db"]["y"] > 45


@pytest.mark.parametrize("calibrated", [False, True])
def test_overflow_is_an_error_that_names_the_operator(tmp_path, calibrated):
    path = network(tmp_path / "m.onnx", gain=1e6)
    samples = [np.ones((1, 3, 33, 33), "float32")] if calibrated else None
    with pytest.raises(EdgeccError, match=r"'scaled' reaches .*float16 ends at 65504") as caught:
        compiler.build(
            path, TARGET, tmp_path / "p", quantize="float16", calibration=samples, tuning_logs=()
        )
    assert 'match = "scaled"' in caught.value.hint
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("target", "recipe", "message"),
    [
        ("x86_64_v3", DEFAULT_HALF["float16"], "x86_64_v3 has no arithmetic in float16"),
        ("arm_cortex_a72", DEFAULT_HALF["float16"], "arm_cortex_a72 has no arithmetic in float16"),
        (TARGET, Recipe((Rule("*", "int8"),)), 'match = "\\*" asks for int8'),
    ],
)
def test_what_is_impossible_is_refused(tmp_path, target, recipe, message):
    path = network(tmp_path / "m.onnx")
    with pytest.raises(EdgeccError, match=message) as caught:
        compiler.build(path, target, tmp_path / "p", quantize="float16", recipe=recipe)
    assert caught.value.hint


@pytest.mark.parametrize("target", ["arm_cortex_a55", "arm_cortex_a76"])
def test_inner_loops_multiply_eight_at_a_time(target):
    """By-lane products of whole registers, and nothing on the stack."""
    machine = load_target(target)
    for name, share in (("conv_1x1", 0.78), ("conv_3x3_stride_2", 0.75), ("depthwise_3x3", 0.4)):
        (text,) = CASES[name].assemblies(machine, half=True)
        loop = hot(inner_loops(text, machine.arch))
        products = re.findall(r"\tfmla\t(v\d+\.\w+), v\d+\.\w+, (v\d+\.\w+(?:\[\d\])?)", text)
        assert products
        assert all(result.endswith(".8h") for result, _ in products)
        by_lane = sum("[" in factor for _, factor in products)
        assert name.startswith("depthwise") or by_lane > 0.9 * len(products)
        assert not loop.stack
        assert loop.share > share


@pytest.mark.parametrize("target", ["riscv_spacemit_x60", "riscv_sifive_x280"])
def test_inner_loops_multiply_whole_registers(target):
    """Groups of registers of 16-bit elements; the lines that set others count their bytes."""
    machine = load_target(target)
    for name, share in (("conv_1x1", 0.72), ("conv_3x3_stride_2", 0.7), ("depthwise_3x3", 0.35)):
        (text,) = CASES[name].assemblies(machine, half=True)
        (wide,) = CASES[name].assemblies(machine)
        loop = hot(inner_loops(text, machine.arch))
        assert re.search(r"vsetvli\t.*\be16\b|vsetivli\t.*\be16\b", text)
        assert not re.search(r"vset\w+\t.*\be32\b", text)
        products, wide_products = (len(re.findall(r"\tvfmacc", t)) for t in (text, wide))
        assert 0 < products <= wide_products
        assert not loop.stack
        assert loop.share > share
