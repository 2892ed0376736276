"""Products whose rows are quantised at run time: what is decided, and what comes out."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import compiler
from compiler.errors import EdgeccError
from compiler.quantize.dynamic import ATTRIBUTE
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.reference import evaluate
from tests.quantize.models import Builder
from tests.quantize.test_ptq import quantized, stored

ROWS, WIDTH, INNER = 7, 21, 40
STATIC = Recipe((*DEFAULT.rules, Rule("*", activations="static")))


@pytest.fixture(scope="module")
def block(tmp_path_factory) -> Path:
    """Three products that read the same rows, a sum of them, GELU, and one more with a residual."""
    b = Builder()
    one, half, root = (b.weight(scale=1) for _ in range(3))
    for name, value in ((one, 1.0), (half, 0.5), (root, 2**0.5)):
        tensor = next(w for w in b.weights if w.name == name)
        tensor.raw_data = np.float32(value).tobytes()

    def dense(x: str, inputs: int, outputs: int, name: str) -> str:
        product = b.node("MatMul", x, b.weight(inputs, outputs, scale=inputs**-0.5), name=name)
        return b.node("Add", product, b.weight(outputs, scale=0.1), name=f"{name}_sum")

    normal = b.node("LayerNormalization", "x", b.weight(WIDTH), b.weight(WIDTH), name="norm")
    parts = [dense(normal, WIDTH, INNER, name) for name in ("q", "k", "v")]
    total = b.node("Add", b.node("Mul", parts[0], parts[1]), parts[2], name="mixed")
    erf = b.node("Erf", b.node("Div", total, root))
    gelu = b.node("Mul", b.node("Mul", total, b.node("Add", erf, one)), half, name="gelu")
    b.node("Add", dense(gelu, INNER, WIDTH, "out"), normal, name="y")
    path = tmp_path_factory.mktemp("block") / "block.onnx"
    shape = (1, ROWS, WIDTH)
    return b.save(path, {"x": shape}, {"y": shape})


def sample() -> np.ndarray:
    """Rows of very different size."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, ROWS, WIDTH)) * np.geomspace(0.1, 30, ROWS)[:, None]
    return x.astype("float32")


def float_result(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_products_share_rows_and_need_no_data(block):
    def none():
        raise AssertionError("no data are needed")
        yield

    found = quantized(block, samples=none)
    assert found.summary() == {"int8": 4, "float32": 0}
    assert not stored(found)
    calls = [
        binding.value.args[0].name_hint
        for part in found.module["main"].body.blocks
        for binding in part.bindings
        if getattr(getattr(binding.value, "op", None), "name", "") == "relax.call_tir"
    ]
    rows = [c for c in calls if (found.module[c].attrs or {}).get(ATTRIBUTE)]
    assert len(rows) == 2  # of the normalisation, and of the GELU


def test_the_graph_computes_rows_of_bytes(block):
    found = quantized(block, target="arm_cortex_a72")
    x = sample()
    (got,) = evaluate(found.module, {"x": x})
    wanted = float_result(block, x)
    noise = np.square(got - wanted).sum(-1) / np.square(wanted).sum(-1)
    assert noise.max() < 10**-3  # 30 dB in every row


def test_one_product_as_written_in_numpy(tmp_path):
    b = Builder()
    b.node("MatMul", "x", b.weight(19, 5), name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, ROWS, 19)}, {"y": (1, ROWS, 5)})
    x = sample()[..., :19]
    found = quantized(path, target="arm_cortex_a72")
    (weights,) = found.weights.values()
    real = weights.values * weights.quantum.scale.astype("float64")
    low = np.minimum(x.min(-1, keepdims=True), 0).astype("float64")
    high = np.maximum(x.max(-1, keepdims=True), 0).astype("float64")
    step = (high - low) / 255
    steps = np.clip(np.round(x / step) + np.round(-low / step), 0, 255)
    wanted = step * (steps - np.round(-low / step)) @ real
    (got,) = evaluate(found.module, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_each_row_has_its_own_range(tmp_path):
    """An outlier in one row costs the others nothing; with one range for all it does."""
    b = Builder()
    b.node("MatMul", "x", b.weight(32, 24), name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (2, 6, 32)}, {"y": (2, 6, 24)})
    x = np.random.default_rng(0).standard_normal((2, 6, 32)).astype("float32")
    x[0, 0, 5] = 300
    wanted = float_result(path, x)

    def worst(recipe) -> float:
        (got,) = evaluate(quantized(path, recipe, samples=[x]).module, {"x": x})
        noise = np.square(got - wanted).sum(-1) / np.square(wanted).sum(-1)
        return float(-10 * np.log10(noise.flat[1:].max()))

    assert worst(DEFAULT) > 30
    assert worst(STATIC) < 15


def test_what_recipes_say(tmp_path, block):
    static = quantized(block, STATIC)
    assert static.summary() == {"int8": 4, "float32": 0}
    assert {"norm", "gelu"} <= set(stored(static))
    some = Recipe((*DEFAULT.rules, Rule("out", activations="static")))
    assert set(stored(quantized(block, some))) == {"gelu"}
    # One row a sample.
    b = Builder()
    b.node("MatMul", "x", b.weight(8, 4), name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (3, 8)}, {"y": (3, 4)})
    assert set(stored(quantized(path))) == {"x"}
    dynamic = Recipe((Rule("matmul", activations="dynamic"),))
    assert not stored(quantized(path, dynamic))
    file = tmp_path / "r.toml"
    file.write_text(STATIC.toml())
    assert Recipe.read(file) == STATIC
    file.write_text('[[rule]]\nmatch = "*"\nactivations = "sometimes"\n')
    with pytest.raises(EdgeccError, match="activations = 'sometimes'"):
        Recipe.read(file)


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72", "arm_cortex_a76"])
def test_packages_compute_what_the_reference_computes(block, tmp_path, target):
    """K = 21 and 40 are no whole groups; N = 40 and 21 are no whole vectors."""
    result = compiler.build(block, target, tmp_path / "p", quantize="int8", strict=True)
    assert result.verification is not None
    assert result.verification.passed
    operators = result.receipt["operators"]
    products = [o for o in operators if o["template"] == "matmul_integer"]
    assert [o["executed_dtype"] for o in products] == ["int8"] * 4
    assert sum(o["template"] == "dynamic_rows" for o in operators) == 2
    assert result.manifest["quantization"]["calibration"]["samples"] == 0
    if target == "host":
        x = sample()
        with compiler.load(result.path) as session:
            (wanted,) = evaluate(quantized(block).module, {"x": x})
            # What is rounded to another step is 1/255 of its row.
            largest = np.abs(wanted).max(-1, keepdims=True)
            assert (np.abs(session(x) - wanted) <= 0.005 * largest).all()


def test_data_are_asked_for_where_they_are_needed(tmp_path):
    b = Builder()
    # the first may be faster in floats, which need none
    b.conv(b.conv("x", 2, 2, name="first"), 2, 2, k=1, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)})
    with pytest.raises(EdgeccError, match="needs data"):
        compiler.build(path, "host", tmp_path / "p", quantize="int8")
