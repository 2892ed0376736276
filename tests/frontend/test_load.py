"""Files that must be refused, with what is said about them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compiler.errors import EdgeccError
from compiler.frontend import import_model, limits
from compiler.frontend.load import c_identifier
from tests.frontend.builders import model, refusal, relu_model, save

F = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 zip", "zip archive"),
        (b"    TFL3 flatbuffer", "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\xff\xff\xff\xff" * 100, "not an ONNX file, or truncated"),
        (b"\x08\x07", "it holds no graph"),
        (b"hello world, this is not a model", "not an ONNX file"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    error = refusal(path)
    assert said in error.message
    assert str(path) in error.message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.onnx").message
    assert "is a directory" in refusal(tmp_path).message


def test_truncation_is_always_refused(tmp_path: Path) -> None:
    data = relu_model().SerializeToString()
    for length in range(len(data)):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[:length])
        try:
            import_model(path)
        except EdgeccError:
            continue
        # only what follows the graph may be missing
        assert onnx.ModelProto.FromString(data[:length]).graph == relu_model().graph


def test_declared_shape_must_match_bytes(tmp_path: Path) -> None:
    proto = relu_model()
    proto.graph.initializer[0].dims[0] = 1 << 40
    error = refusal(save(proto, tmp_path))
    assert "initializer 'w'" in error.message
    assert "the file holds 12" in error.message


@pytest.mark.parametrize("dims", [[-1], [1] * 40])
def test_impossible_dimensions(tmp_path: Path, dims: list[int]) -> None:
    proto = relu_model()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    assert "impossible shape" in refusal(save(proto, tmp_path)).message


def test_unknown_element_type(tmp_path: Path) -> None:
    proto = relu_model()
    proto.graph.initializer[0].data_type = 99
    assert "unknown element type 99" in refusal(save(proto, tmp_path)).message


def _external(tmp_path: Path, location: str, offset: int = 0, length: int = 12) -> Path:
    proto = relu_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return save(proto, tmp_path)


def test_external_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/w.bin").write_bytes(b"skip" + np.float32([1, 2, 3]).tobytes())
    first = import_model(_external(tmp_path, "sub/w.bin", 4))
    (tmp_path / "sub/w.bin").write_bytes(b"skip" + np.float32([1, 2, 4]).tobytes())
    assert import_model(tmp_path / "model.onnx").sha256 != first.sha256


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "sub/../../w.bin", "/etc/passwd", "C:\\w.bin", "..\\w.bin", "", "a\0b"],
)
def test_external_path_that_leaves_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"0" * 12)
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    assert "leaves the model's folder" in refusal(_external(inner, location)).message


def test_external_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/w.bin").write_bytes(b"0" * 12)
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "secret/w.bin", folder / "w.bin")
    assert "symbolic link" in refusal(_external(folder, "w.bin")).message
    os.symlink(tmp_path / "secret", folder / "sub")
    assert "symbolic link" in refusal(_external(folder, "sub/w.bin")).message


def test_external_data_missing_short_or_special(tmp_path: Path) -> None:
    assert "'w.bin' of initializer 'w' is missing" in refusal(_external(tmp_path, "w.bin")).message
    (tmp_path / "w.bin").write_bytes(b"0" * 11)
    assert "which has 11" in refusal(_external(tmp_path, "w.bin")).message
    assert "names 10 bytes" in refusal(_external(tmp_path, "w.bin", 0, 10)).message
    (tmp_path / "folder").mkdir()
    assert "not a regular file" in refusal(_external(tmp_path, "folder")).message
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(_external(tmp_path, "pipe")).message


def test_external_offset_must_be_a_number(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"0" * 12)
    path = _external(tmp_path, "w.bin")
    proto = onnx.ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].external_data[1].value = "-4"
    assert "offset '-4'" in refusal(save(proto, tmp_path)).message


def test_absurd_external_size_is_refused_before_reading(tmp_path: Path) -> None:
    path = _external(tmp_path, "w.bin")
    proto = onnx.ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].dims[0] = 1 << 50
    assert "take more than 4 GiB" in refusal(save(proto, tmp_path)).message


def test_cycle(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    error = refusal(save(model(nodes, [("x", F, [2])], ["b"]), tmp_path))
    assert "cycle" in error.message
    assert "'first' (Add)" in error.message


def test_unsorted_graph_is_sorted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Neg", ["x"], ["a"]),
    ]
    imported = import_model(save(model(nodes, [("x", F, [2])], ["b"]), tmp_path))
    assert imported.outputs[0].shape == (2,)


def test_duplicate_names(tmp_path: Path) -> None:
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    path = save(model(twice, [("x", F, [2])], ["y"]), tmp_path)
    assert "makes 'y', which exists already" in refusal(path).message
    proto = relu_model()
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert "initializer 'w' is there twice" in refusal(save(proto, tmp_path)).message
    proto = relu_model()
    proto.graph.input.append(proto.graph.input[0])
    assert "graph input 'x' is there twice" in refusal(save(proto, tmp_path)).message


def test_undefined_values(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"], name="lost")]
    path = save(model(nodes, [("x", F, [2])], ["y"]), tmp_path)
    error = refusal(path)
    assert "'lost' (Relu) reads 'nowhere'" in error.message
    path = save(model([], [("x", F, [2])], ["y"]), tmp_path)
    assert "output 'y' is made by no node" in refusal(path).message


def test_deep_nesting(tmp_path: Path) -> None:
    result = [helper.make_empty_tensor_value_info("z")]
    empty = helper.make_graph([], "none", [], [helper.make_empty_tensor_value_info("x")])
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "body", [], result)
    for _ in range(limits.MAX_DEPTH + 1):
        node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=empty)
        body = helper.make_graph([node], "body", [], result)
    inputs = [("x", F, [2]), ("c", TensorProto.BOOL, [])]
    error = refusal(save(model(body.node, inputs, ["z"]), tmp_path))
    assert "nested deeper" in error.message or "truncated" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights(tmp_path: Path, value: float) -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1, 2] = value
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(model(nodes, [("x", F, [1, 3, 4, 4])], ["y"], {"w": weight}), tmp_path)
    error = refusal(path)
    assert "initializer 'w' contains" in error.message


def test_infinite_mask_is_fine(tmp_path: Path) -> None:
    mask = np.asarray([0.0, -np.inf, 0.0], np.float32)
    proto = relu_model()
    proto.graph.initializer[0].raw_data = mask.tobytes()
    assert import_model(save(proto, tmp_path)).outputs[0].shape == (2, 3)


def test_sparse_initializer(tmp_path: Path) -> None:
    proto = relu_model()
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.name = "few"
    assert "sparse initializer 'few'" in refusal(save(proto, tmp_path)).message


@pytest.mark.parametrize(
    ("stem", "name"),
    [("resnet-50", "resnet_50"), ("3d", "model_3d"), ("__", "model"), ("Ünï", "n"), ("a b", "a_b")],
)
def test_names_are_c_identifiers(stem: str, name: str) -> None:
    assert c_identifier(stem) == name
