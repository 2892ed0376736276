"""Shapes and constants given by the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from compiler.frontend import import_model
from compiler.frontend.node import NeedsConstantError
from tests.frontend.builders import model, refusal, relu_model, run, save

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def test_unknown_dimension_says_the_flag(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["y"])]
    shape = ["batch", 3, "height", None]
    path = save(model(nodes, [("image", F, shape)], ["y"]), tmp_path)
    error = refusal(path)
    assert "'image' is batchx3xheightx?" in error.message
    assert "--shape image=1x3x224x224" in error.hint


def test_unknown_rank(tmp_path: Path) -> None:
    path = save(model([helper.make_node("Relu", ["x"], ["y"])], [("x", F, None)], ["y"]), tmp_path)
    assert "'x' is of unknown rank" in refusal(path).message
    assert import_model(path, {"x": (4, 5)}).inputs[0].shape == (4, 5)


def test_symbols_are_shared_between_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [("a", F, ["n", 3]), ("b", F, ["n", 3])]
    path = save(model(nodes, inputs, ["y"]), tmp_path)
    imported = import_model(path, {"a": (5, 3)})
    assert [info.shape for info in imported.inputs] == [(5, 3), (5, 3)]
    error = refusal(path, {"a": (5, 3), "b": (6, 3)})
    assert "dimension 'n' is 6 here, but 5 for input 'a'" in error.message


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 1), (0, 3)])
def test_shape_mismatch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(relu_model(["n", 3]), tmp_path)
    assert "--shape x" in refusal(path, {"x": shape}).message


def test_misspelt_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["y"])]
    path = save(model(nodes, [("image", F, [1])], ["y"]), tmp_path)
    assert refusal(path, {"imagee": (1,)}).hint == "did you mean 'image'?"
    assert "the inputs are: image" in refusal(path, {}, {"q": np.zeros(1)}).hint


def test_huge_input(tmp_path: Path) -> None:
    path = save(relu_model(["n", 3]), tmp_path)
    assert "limit 2 GiB" in refusal(path, {"x": (1 << 40, 3)}).message


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.BFLOAT16])
def test_unsupported_element_types(tmp_path: Path, kind: int) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(model(nodes, [("x", kind, [1])], ["y"]), tmp_path)
    assert "has element type" in refusal(path).message


def test_sequence_input(tmp_path: Path) -> None:
    proto = relu_model()
    proto.graph.input.append(helper.make_tensor_sequence_value_info("list", F, [1]))
    assert "input 'list' is no tensor but: sequence" in refusal(save(proto, tmp_path)).message


def _reshape(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"], name="fold")]
    return save(model(nodes, [("x", F, [2, 6]), ("target", I64, [2])], ["y"]), tmp_path)


def test_operand_that_must_be_constant(tmp_path: Path) -> None:
    path = _reshape(tmp_path)
    with pytest.raises(NeedsConstantError) as caught:
        import_model(path)
    assert "'fold' (Reshape): its input 'target' (shape)" in caught.value.message
    assert "--const target=VALUE" in caught.value.hint
    assert caught.value.inputs == ("target",)
    imported = import_model(path, {}, {"target": np.asarray([3, -1])})
    assert [info.name for info in imported.inputs] == ["x"]
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(run(imported, x=x)[0], x.reshape(3, 4))


def test_constants_must_fit(tmp_path: Path) -> None:
    path = _reshape(tmp_path)
    assert "do not fit the input's type" in refusal(path, {}, {"target": [1.5, 2]}).message
    assert "does not fit 2" in refusal(path, {}, {"target": [1, 2, 6]}).message
    assert "do not fit" in refusal(path, {}, {"target": np.asarray(["a", "b"])}).message
    both = refusal(path, {"target": (2,)}, {"target": [3, 4]})
    assert "this input is a constant" in both.message


def test_initializer_that_is_an_input_stays_constant(tmp_path: Path) -> None:
    proto = relu_model()
    proto.graph.input.append(helper.make_tensor_value_info("w", F, [3]))
    path = save(proto, tmp_path)
    assert [info.name for info in import_model(path).inputs] == ["x"]
    other = import_model(path, {}, {"w": np.zeros(3, np.float32)})
    x = np.asarray([[1, -1, 2], [-3, 4, 0]], np.float32)
    np.testing.assert_array_equal(run(other, x=x)[0], np.maximum(x, 0))
