"""Functions behind convolutions and products that are looked up by what 8 bits hold before them."""

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import compiler
from compiler.frontend import import_model
from compiler.passes.pipeline import simplify
from compiler.quantize.calibrators import Mse
from compiler.quantize.functions import OfFunction, split_functions
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.regions import Graph
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx

SHAPE = (1, 8, 10, 10)
TABLES = Recipe((*DEFAULT.rules, Rule("*", functions="table")))
SAMPLES = np.random.default_rng(0).standard_normal((8, *SHAPE)).astype("float32") * 2


def silu(b, x):
    return b.node("Mul", x, b.node("Sigmoid", x))


def gelu(b, x):
    half, one, root = (b.number(v) for v in (0.5, 1.0, np.sqrt(2)))
    inner = b.node("Add", b.node("Erf", b.node("Div", x, root)), one)
    return b.node("Mul", b.node("Mul", x, inner), half)


def mish(b, x):
    return b.node("Mul", x, b.node("Tanh", b.node("Softplus", x)))


class Numbers(Builder):
    def number(self, value):
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.float32(value), name))
        return name


def two_convolutions(folder, function, channels=8):
    """A function between two convolutions."""
    b = Numbers()
    x = function(b, b.conv("x", 8, channels, name="before"))
    b.conv(x, channels, 4, k=1, name="y")
    return b.save(folder / "m.onnx", {"x": SHAPE}, {"y": (1, 4, 10, 10)})


def cut(path):
    """Names of the first operators of regions that are cut off."""
    graph = Graph(simplify(import_model(path).module, load_target("host")))
    split_functions(graph, lambda region: True)
    members = [m for r in graph.regions for m in r.members]
    assert sorted(members, key=graph.order.__getitem__) == members
    return [graph.region_of[end].operator for end in graph.functions]


@pytest.mark.parametrize("function", [silu, gelu, mish])
def test_whole_functions_are_cut_off(function, tmp_path):
    assert len(cut(two_convolutions(tmp_path, function))) == 1


def test_what_is_cheap_small_or_needed_otherwise_is_not(tmp_path):
    assert cut(two_convolutions(tmp_path, lambda b, x: b.node("Relu", x))) == []
    assert cut(two_convolutions(tmp_path, lambda b, x: b.node("HardSwish", x))) == []
    assert cut(two_convolutions(tmp_path, silu, channels=2)) == []
    # a sum behind it, of the function and of what it is of
    assert cut(two_convolutions(tmp_path, lambda b, x: b.node("Add", "x", silu(b, x)))) == []

    def a_factor_a_channel(b, x):
        return silu(b, b.node("Mul", silu(b, x), b.weight(8, 1, 1)))

    assert cut(two_convolutions(tmp_path, a_factor_a_channel)) == ["sigmoid"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """SiLU behind a convolution and behind bytes (a concatenation), GELU behind a depthwise one."""
    b = Numbers()
    x = silu(b, b.conv("x", 8, 16, name="first"))
    y = gelu(b, b.conv(x, 16, 16, group=16, name="depthwise"))
    total = b.node("Add", b.conv(y, 16, 16, k=1, name="pointwise"), x)
    joined = b.node("Concat", b.conv(total, 16, 8, k=1, name="beside"), total, axis=1)
    b.conv(silu(b, joined), 24, 4, k=1, name="y")
    path = tmp_path_factory.mktemp("functions") / "m.onnx"
    return b.save(path, {"x": SHAPE}, {"y": (1, 4, 10, 10)})


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_library_looks_functions_up(network, target, tmp_path):
    """ARM is emulated."""
    package = tmp_path / "p"
    made = compiler.build(
        network, target, package, quantize="int8", calibration=SAMPLES, recipe=TABLES
    )
    assert made.verification is not None
    templates = [op["template"] for op in made.receipt["operators"]]
    assert templates.count("byte_table") == 3
    assert made.manifest["quantization"]["sqnr_db"]["y"] > 25
    if target == "host":
        x = np.random.default_rng(1).standard_normal(SHAPE).astype("float32") * 2
        (want,) = run_onnx(onnx.load(network), {"x": x})
        got = compiler.load(package).run({"x": x})["y"]
        assert np.mean((got - want) ** 2) < np.mean(want**2) / 10**2.5


def exact_silu(x):
    return x / (1 + np.exp(-x))


def exact_mish(x):
    return x * np.tanh(np.logaddexp(0, x))


def noise(function, values, ends):
    """Mean squared error of a function of what 8 bits hold."""
    scale = (ends[1] - ends[0]) / 255
    zero = np.rint(-ends[0] / scale)
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    return np.mean((function((stored - zero) * scale) - function(values)) ** 2)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([exact_silu, exact_mish, np.tanh]),
    st.floats(-6, 6),
    st.floats(0.1, 8),
    st.integers(0, 99),
)
@example(np.tanh, 0.0, 8.0, 0)
def test_ranges_are_those_of_the_function(function, mean, spread, seed):
    """Never much worse than the range for the numbers themselves, and better where it matters."""
    x = np.random.default_rng(seed).normal(mean, spread, 5000).astype("float32")
    own, plain = OfFunction(function), Mse()
    own.observe(x)
    plain.observe(x)
    of_own, of_plain = (noise(function, x.astype("float64"), c.range()) for c in (own, plain))
    assert of_own <= 1.05 * of_plain + 1e-12
    if function is np.tanh and spread == 8.0:
        assert of_own < 0.5 * of_plain  # beyond 3 it hardly changes


def test_functions_without_values_have_the_range_of_the_numbers():
    x = np.random.default_rng(0).standard_normal(5000).astype("float32")
    own, plain = OfFunction(np.log), Mse()
    own.observe(x)
    plain.observe(x)
    assert own.range() == plain.range()
    assert OfFunction(np.log).range() == (0.0, 0.0)
