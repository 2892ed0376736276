"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import EdgeccError
from compiler.frontend import ImportedModel, import_model
from tests.conformance.host import run_on_host

Info = tuple[str, int, Sequence[int | str | None] | None]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Info],
    outputs: Sequence[str],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 20,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; outputs have no declared type, as importers must not need one."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*info) for info in inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(a, n) for n, a in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def relu_model(shape: Sequence[int | str | None] = (2, 3)) -> onnx.ModelProto:
    """y = relu(x + w), w of shape 3."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["y"], name="rectify"),
    ]
    weight = np.asarray([1.0, -2.0, 3.0], np.float32)
    return model(nodes, [("x", TensorProto.FLOAT, shape)], ["y"], {"w": weight})


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def refusal(path: Path, *args: Any, **keywords: Any) -> EdgeccError:
    """The error of importing ``path``; fails when it imports."""
    with pytest.raises(EdgeccError) as caught:
        import_model(path, *args, **keywords)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def run(imported: ImportedModel, **feeds: np.ndarray) -> list[np.ndarray]:
    return run_on_host(imported, [feeds[info.name] for info in imported.inputs])


def reference(proto: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime's outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)
