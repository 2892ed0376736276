"""Bias correction: means of channels against ONNX Runtime's convolutions."""

import numpy as np
import onnx
import pytest

from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.quantize.bias_correction import _respond, tap_means
from compiler.quantize.data import open_data
from compiler.quantize.ptq import quantize
from compiler.quantize.recipe import Recipe, Rule
from compiler.quantize.reference import evaluate
from compiler.quantize.regions import Graph, weights_of
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx


@pytest.mark.parametrize(
    ("k", "more"),
    [
        (1, {}),
        (3, {}),
        (3, {"strides": [2, 2]}),
        (3, {"group": 4, "dilations": [2, 1]}),
        (5, {"group": 2, "strides": [1, 3]}),
    ],
)
def test_means_of_taps_give_the_mean_of_a_convolution(tmp_path, k, more):
    b = Builder()
    b.conv("x", 4, 8, k=k, name="y", **more)
    x = np.random.default_rng(3).standard_normal((2, 4, 9, 11)).astype("float32") + 1
    # without a bias, of any shape
    b.nodes[0].input.pop()
    path = b.save(tmp_path / "m.onnx", {"x": x.shape}, {"y": ("n", "c", "h", "w")})
    (wanted,) = run_onnx(onnx.load(path), {"x": x})
    graph = Graph(simplify(import_model(path).module, load_target("host")))
    region = next(r for r in graph.regions if r.kind == "convolution")
    (means,) = tap_means(graph.values[region.anchor], x[None])
    found = _respond(graph, region, weights_of(graph, region)[0], means)
    np.testing.assert_allclose(found, wanted.mean(axis=(0, 2, 3)), atol=1e-5)


def test_channels_keep_their_means(tmp_path):
    """One scale for channels of very different weights rounds small ones badly, all one way."""
    b = Builder()
    hidden = b.node("Relu", b.conv("x", 4, 16, name="c1"), name="r1")
    y = b.conv(hidden, 16, 8, k=1, name="c2")
    b.node("Flatten", b.node("GlobalAveragePool", y), name="y")
    big = b.weights[2]
    values = onnx.numpy_helper.to_array(big) * np.logspace(-2, 0, 8)[:, None, None, None]
    big.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), big.name))
    shape = (1, 4, 12, 12)
    path = b.save(tmp_path / "m.onnx", {"x": shape}, {"y": (1, 8)})
    rng = np.random.default_rng(5)
    samples = [rng.standard_normal(shape).astype("float32") + 2 for _ in range(8)]
    target, model = load_target("host"), import_model(path)
    exact = np.mean([run_onnx(onnx.load(path), {"x": x})[0] for x in samples], axis=0)
    errors = []
    for correct in (False, True):
        recipe = Recipe((Rule("*", granularity="per_tensor"),), bias_correction=correct)
        data = open_data(samples, model.inputs)
        found = quantize(simplify(model.module, target), target, data, recipe)
        made = np.mean([evaluate(found.module, {"x": x})[0] for x in samples], axis=0)
        errors.append(np.abs(made - exact).max())
    assert errors[1] < 0.2 * errors[0]
