"""Activations of 16 bits beside weights of 8."""

import numpy as np
import pytest

import compiler
from compiler.errors import EdgeccError
from compiler.package import open_package
from compiler.package.verify import difference, load_golden
from compiler.passes.channel_sums import channel_sums
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.scales import beside_words, quantize_weights, symmetric_words
from compiler.quantize.search import MAX_EVALUATIONS, _Search
from tests.bochs.machine import BochsRunner
from tests.quantize.models import Builder

SHAPE = (1, 3, 12, 12)
WORDS = Recipe((*DEFAULT.rules, Rule("*", activations="int16")))
SAMPLES = np.random.default_rng(0).standard_normal((8, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Convolutions, one of them depthwise, a residual sum, pools and a product of matrices."""
    b = Builder()
    x = b.node("Relu", b.conv("x", 3, 16, strides=[2, 2], name="first"))
    y = b.node("Relu", b.conv(x, 16, 16, group=16, name="depthwise"))
    x = b.node("Relu", b.node("Add", b.conv(y, 16, 16, k=1, name="pointwise"), x))
    x = b.node(
        "Concat",
        b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
        b.node("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2]),
        axis=1,
    )
    b.node("MatMul", b.node("Flatten", x), b.weight(288, 10), name="y")
    return b.save(tmp_path_factory.mktemp("words") / "m.onnx", {"x": SHAPE}, {"y": (1, 10)})


def built(model, target, folder):
    return compiler.build(
        model, target, folder, quantize="int8", calibration=SAMPLES, recipe=WORDS, tuning_logs=()
    )


def test_library_agrees_with_numpy(model, tmp_path):
    """On RISC-V, under emulation."""
    made = built(model, "riscv_spacemit_x60", tmp_path / "p")
    assert made.verification is not None
    entry = made.manifest["quantization"]
    assert entry["operators"]["int16"] == 4
    assert entry["sqnr_db"]["y"] > 30
    ran = [op.get("intrinsic", "") for op in made.receipt["operators"]]
    assert ran.count("rvv_vwmacc") == 3  # the depthwise convolution has a template of its own


def test_vnni_adds_products_of_words(model, tmp_path):
    made = built(model, "x86_64_vnni", tmp_path / "p")
    ran = [op.get("intrinsic", "") for op in made.receipt["operators"]]
    # The depthwise convolution is float, and so is the first one.
    assert sum(name.startswith("x86_vnni_words") for name in ran) == 2
    package = open_package(tmp_path / "p")
    inputs, want = load_golden(package)
    got = BochsRunner(package).verify(inputs, threads=1)
    assert difference(got["y"], want["y"]) <= package.manifest["golden"]["tolerance"]


def test_no_words_where_floats_are_as_fast(model, tmp_path):
    with pytest.raises(
        EdgeccError, match="arm_cortex_a72 computes no faster than float32"
    ) as error:
        built(model, "arm_cortex_a72", tmp_path / "p")
    assert error.value.hint


@pytest.mark.parametrize("per_channel", [True, False])
def test_sums_stay_in_int32_whatever_the_weights(per_channel):
    weights = np.random.default_rng(0).uniform(-1, 1, (4, 3000)).astype("float32")
    weights[1] = 1.0
    weights[2] *= 1e-3
    quantum = beside_words(weights, 0, per_channel)
    values = quantize_weights(weights, quantum)
    assert channel_sums(values, quantum, symmetric_words(-3.0, 2.0)) is not None
    assert np.abs(values[1].astype("int64")).sum() * 32768 > 0.8 * 2**31  # as fine as it may be
    few = beside_words(weights[:, :100], 0, True)
    np.testing.assert_allclose(few.scale, np.abs(weights[:, :100]).max(axis=1) / 127, rtol=1e-6)


@pytest.mark.parametrize(
    ("floats", "words"), [({"a", "c"}, {"b"}), (set(), {"b", "d"}), ({"a", "b", "c", "d"}, set())]
)
def test_the_search_prefers_words_to_floats(floats, words):
    """Over a model of the search: some must be in float32, others at least in 16 bits."""
    search = _Search.__new__(_Search)
    search.ranked, search.measured, search.complete, search.started = [*"abcdef"], {}, True, 0
    search._is_spent = lambda: len(search.measured) >= MAX_EVALUATIONS

    def both_hold(in_floats, in_words):
        search.measured[frozenset(in_floats), frozenset(in_words)] = 0.0
        return floats <= set(in_floats) and words <= {*in_floats, *in_words}

    search._both_hold = both_hold
    search.in_words = both_hold([], search.ranked)
    assert search.in_words == (not floats)
    names = search._give_back(search._shortest())
    found = ([], names) if search.in_words else search._narrow(names)
    assert (set(found[0]), set(found[1])) == (floats, words)
