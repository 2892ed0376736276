"""Weights as integers in products of floats, and tables of rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compiler
from compiler.errors import EdgeccError
from compiler.quantize.golden import sqnr
from compiler.quantize.recipe import Recipe, weights_only
from compiler.quantize.request import make_request
from compiler.quantize.weight_only import quantize_to_4_bits, quantize_to_8_bits

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("group", [32, 128])
def test_4_bits_are_better_than_those_of_the_largest_weight(group):
    weights = RNG.standard_normal((200, 40)).astype("float32")
    made = quantize_to_4_bits(weights, group)
    assert made.integers.min() >= 0
    assert made.integers.max() <= 15
    rows = np.arange(len(weights)) // group
    largest = np.stack([np.abs(weights[rows == g]).max(axis=0) for g in range(rows[-1] + 1)])
    plain = np.rint(weights / (largest / 7)[rows]) * (largest / 7)[rows]
    assert sqnr(weights, made.dequantize64()) > sqnr(weights, plain) + 1


def test_steps_of_the_grid_are_kept():
    steps = RNG.integers(-7, 8, (64, 12))
    steps[::32] = -8
    weights = (steps * np.float32(0.125)).astype("float32")
    weights[:32, 3] = 0
    np.testing.assert_allclose(quantize_to_4_bits(weights, 32).dequantize64(), weights, atol=1e-7)
    eights = quantize_to_8_bits(weights, 32)
    np.testing.assert_allclose(eights.dequantize64(), weights, atol=1.01 / 254)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An embedding of 3 tokens, two products with ragged sizes."""
    constants = {
        "table": RNG.standard_normal((700, 72)),
        "w0": RNG.standard_normal((72, 100)) / 8,
        "w1": RNG.standard_normal((100, 52)) / 10,
        "b": RNG.standard_normal(100),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], "embedding"),
        helper.make_node("MatMul", ["x", "w0"], ["h"], "hidden"),
        helper.make_node("Add", ["h", "b"], ["s"], "bias"),
        helper.make_node("Relu", ["s"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w1"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 52])],
        [numpy_helper.from_array(a.astype("float32"), n) for n, a in constants.items()],
    )
    path = tmp_path_factory.mktemp("weights") / "model.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(proto, path)
    return path


def test_library_of_4_bits(model, tmp_path):
    result = compiler.build(model, output=tmp_path / "p", quantize="weights-int4")
    assert result.verification.status == "passed"
    entry = result.manifest["quantization"]
    assert entry["precision"] == "weights-int4"
    assert entry["operators"] == {"int8": 0, "float32": 0, "weights-int4": 2}
    assert 15 < entry["sqnr_db"]["y"] < 30
    assert set(result.receipt["summary"]["template"]) >= {"matmul_grouped"}
    # A byte a value of the table, half a byte and a float for 32 values of the matrices.
    values = 72 * 100 + 100 * 52
    floats = 4 * (700 + 100) + values / 8
    assert result.manifest["weights_bytes"] < 1.4 * (700 * 72 + values / 2 + floats)


def test_recipe_chooses_by_operator(model, tmp_path):
    table = {
        "rule": [
            {"match": "*", "precision": "float32", "weights": "int8"},
            {"match": "head", "weights": "int4", "group": 128},
            {"match": "take", "weights": "float32"},
        ]
    }
    recipe = Recipe.of(table, "test")
    assert Recipe.of(table, "test") == recipe
    result = compiler.build(
        model, output=tmp_path / "p", quantize="weights-int8", recipe=recipe, verify=False
    )
    counts = result.manifest["quantization"]["operators"]
    assert counts == {"int8": 0, "float32": 0, "weights-int8": 1, "weights-int4": 1}
    assert result.manifest["weights_bytes"] > 700 * 72 * 4


def test_recipes_print_and_read_groups():
    text = weights_only(4).toml()
    assert 'weights = "int4"' in text
    assert "group = 32" in text
    for row, word in (({"weights": "int5"}, "int5"), ({"group": 33}, "33")):
        with pytest.raises(EdgeccError, match=word):
            Recipe.of({"rule": [{"match": "*", **row}]}, "test")


def test_weights_alone_need_no_data():
    with pytest.raises(EdgeccError, match="weights-int4"):
        make_request("weights-int4", "data.npz", "auto", None, "float32")
    request = make_request("weights-int4", None, "auto", None, "float32")
    assert request is not None
    assert request.weights_only
