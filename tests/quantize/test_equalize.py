"""Cross-layer equalization: the same function, and channels of one range."""

import numpy as np
import onnx
import pytest

from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.quantize.data import open_data
from compiler.quantize.equalize import equalize
from compiler.quantize.golden import sqnr
from compiler.quantize.ptq import quantize
from compiler.quantize.recipe import Recipe, Rule
from compiler.quantize.reference import evaluate
from compiler.quantize.regions import Graph, weights_of
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx

SHAPE = (1, 4, 10, 10)


@pytest.fixture
def uneven(tmp_path):
    """Convolution, depthwise, 1x1, with channels whose ranges differ by a factor of 1,000."""
    b = Builder()
    x = b.node("Relu", b.conv("x", 4, 8, name="c0"), name="r0")
    x = b.node("LeakyRelu", b.conv(x, 8, 8, group=8, name="c1"), name="r1", alpha=0.1)
    x = b.node("Clip", b.conv(x, 8, 8, k=1, name="c2"), "lo", "hi", name="r2")
    b.conv(x, 8, 3, name="y")
    b.weights += [onnx.numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "lo"), (6, "hi"))]
    factors = np.logspace(-1.5, 1.5, 8).astype("float32")
    for index, shape in ((0, (8, 1, 1, 1)), (1, (8,)), (2, (8, 1, 1, 1)), (4, (1, 8, 1, 1))):
        values = onnx.numpy_helper.to_array(b.weights[index])
        scale = 1 / factors if index == 2 else factors if index < 2 else np.ones(8, "float32")
        values = values * scale.reshape(shape)
        b.weights[index].CopyFrom(onnx.numpy_helper.from_array(values, f"w{index}"))
    return b.save(tmp_path / "m.onnx", {"x": SHAPE}, {"y": (1, 3, 10, 10)})


def ranges(module, name: str, axis: int) -> np.ndarray:
    graph = Graph(module)
    region = next(r for r in graph.regions if name in r.names)
    weights, _ = weights_of(graph, region)
    return np.abs(np.moveaxis(weights, axis, 0)).reshape(weights.shape[axis], -1).max(axis=1)


def test_the_function_stays_and_pairs_have_one_range(uneven):
    module = simplify(import_model(uneven).module, load_target("host"))
    after = equalize(module)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    (wanted,) = run_onnx(onnx.load(uneven), {"x": x})
    (got,) = evaluate(after, {"x": x})
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    assert (ranges(module, "c0", 0) / ranges(module, "c1", 0)).max() > 10
    np.testing.assert_allclose(ranges(after, "c0", 0), ranges(after, "c1", 0), rtol=0.01)
    np.testing.assert_allclose(ranges(after, "c1", 0), ranges(after, "c2", 1), rtol=0.01)
    # a clip is not homogeneous: nothing moves across it
    np.testing.assert_array_equal(ranges(after, "y", 1), ranges(module, "y", 1))


def test_it_helps_where_channels_are_uneven(uneven):
    target, model = load_target("host"), import_model(uneven)
    rng = np.random.default_rng(1)
    samples = [rng.standard_normal(SHAPE).astype("float32") for _ in range(6)]
    (exact,) = run_onnx(onnx.load(uneven), {"x": samples[0]})
    found = []
    for switch in (False, True):
        recipe = Recipe((Rule("*"),), equalization=switch)
        data = open_data(samples, model.inputs)
        made = quantize(simplify(model.module, target), target, data, recipe)
        found.append(sqnr(exact, evaluate(made.module, {"x": samples[0]})[0]))
    assert found[1] > found[0] + 3
