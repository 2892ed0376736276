"""`inspect`'s view of a model file."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import EdgeccError
from compiler.frontend.summary import summarize


def save(path, nodes, inputs, outputs, weights=()):
    def values(rows):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in rows]

    initializers = [
        numpy_helper.from_array(np.zeros(shape, dtype), name) for name, shape, dtype in weights
    ]
    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test"
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("node", "x", "weight", "y", "macs"),
    [
        (
            helper.make_node("Conv", ["x", "w"], ["y"], group=2),
            (1, 4, 8, 9), (6, 2, 3, 3), (1, 6, 6, 7), 6 * 6 * 7 * 2 * 9,
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            (1, 3, 4, 4), (3, 5, 2, 2), (1, 5, 8, 8), 3 * 4 * 4 * 5 * 4,
        ),
        (
            helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1),
            (7, 3), (5, 7), (3, 5), 3 * 5 * 7,
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            (2, 3, 7), (7, 5), (2, 3, 5), 2 * 3 * 5 * 7,
        ),
        (helper.make_node("Add", ["x", "w"], ["y"]), (2, 3), (2, 3), (2, 3), 0),
    ],
)  # fmt: skip
def test_multiply_accumulates(tmp_path, node, x, weight, y, macs):
    path = save(tmp_path / "m.onnx", [node], [("x", x)], [("y", y)], [("w", weight, "float32")])
    summary = summarize(path)
    assert summary["macs"] == macs
    assert summary["parameters"] == np.prod(weight)
    assert summary["weights_bytes"] == 4 * np.prod(weight)


def open_batch(path):
    return save(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", ("batch", 7))],
        [("y", ("batch", 5))],
        [("w", (7, 5), "float32")],
    )


def test_open_dimensions(tmp_path):
    summary = summarize(open_batch(tmp_path / "m.onnx"))
    assert summary["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 7]}]
    assert summary["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 5]}]
    assert summary["macs"] is None


def test_bound_dimensions(tmp_path):
    summary = summarize(open_batch(tmp_path / "m.onnx"), {"x": (3, 7)})
    assert summary["outputs"] == [{"name": "y", "dtype": "float32", "shape": [3, 5]}]
    assert summary["macs"] == 3 * 7 * 5


@pytest.mark.parametrize(
    ("shapes", "text"), [({"z": (3, 7)}, "--shape z"), ({"x": (3,)}, "has 2 dimensions")]
)
def test_bad_bindings(tmp_path, shapes, text):
    with pytest.raises(EdgeccError, match=text):
        summarize(open_batch(tmp_path / "m.onnx"), shapes)


def test_operators_in_branches_and_constants_count(tmp_path):
    value = numpy_helper.from_array(np.zeros((3, 2), "int8"))
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=value)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.INT8, (3, 2))],
    )
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("If", ["k"], ["r"], then_branch=branch, else_branch=branch),
            helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
        ],
        [],
        [("y", (3, 2))],
    )
    summary = summarize(path)
    assert summary["operators"] == {"Constant": 3, "If": 1, "Cast": 1}
    assert summary["parameters"] == 1 + 6 + 6
    assert summary["weights_bytes"] == 13
