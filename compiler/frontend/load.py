"""Reads a model file of a stranger: everything is checked before memory is taken.

The result is a ``ModelProto`` whose tensors all carry their data and whose graph is sorted and
well-formed: names unique, every value defined, no cycles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EdgeccError
from compiler.frontend import limits
from compiler.frontend.external_data import load_external_data
from compiler.frontend.tensors import check_tensor

if TYPE_CHECKING:
    import onnx

_OTHER_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)"),
    (0, b"\x89HDF", "an HDF5 file (a Keras model?)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"<", "a markup or text file"),
)
_EXPORT_HINT = "give a model in ONNX format, for example one written by torch.onnx.export"


@dataclass(frozen=True)
class LoadedModel:
    """A checked model.

    Args:
        name: C identifier made of the file's stem.
        proto: the model; external data has been read into it.
        sha256: hex digest of the model file followed by its external data files.
    """

    name: str
    proto: onnx.ModelProto
    sha256: str


def load_model(path: str | Path) -> LoadedModel:
    """Reads and checks the model at ``path``.

    Raises:
        EdgeccError: the file cannot be read, is no ONNX model, or is malformed or oversized.
    """
    path = Path(path)
    data = _read(path)
    model = _parse(path, data)
    digest = hashlib.sha256(data)
    del data
    tensors = list(_tensors(path, model))
    load_external_data(path, tensors, digest)
    total = 0
    for owner, tensor in tensors:
        total += check_tensor(path, owner, tensor)
        if total > limits.MAX_WEIGHT_BYTES:
            raise EdgeccError(
                f"{path}: the weights take more than {limits.MAX_WEIGHT_BYTES >> 30} GiB",
                "edgecc compiles models for small machines; quantize or shrink the model",
            )
    check_graph(path, model.graph)
    return LoadedModel(c_identifier(path.stem), model, digest.hexdigest())


def c_identifier(stem: str) -> str:
    """``stem`` with everything replaced that a C identifier cannot hold, in ASCII."""
    name = re.sub(r"[^0-9a-zA-Z]+", "_", stem).strip("_").lower() or "model"
    return f"model_{name}" if name[0].isdigit() else name


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise EdgeccError(f"{path}: is a directory, not an ONNX file", _EXPORT_HINT)
        if path.exists() and not path.is_file():
            raise EdgeccError(f"{path}: is not a regular file", _EXPORT_HINT)
        size = path.stat().st_size
        if size > limits.MAX_MODEL_BYTES:
            raise EdgeccError(
                f"{path}: {size} bytes are too many for one ONNX file (limit 2 GiB)",
                "save the weights as external data",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise EdgeccError(f"{path}: no such file", "check the path of the model") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EdgeccError(f"{path}: cannot be read: {reason}", "check the file") from None


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise EdgeccError(f"{path}: the file is empty", _EXPORT_HINT)
    for offset, magic, what in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            raise EdgeccError(f"{path}: not an ONNX file but {what}", _EXPORT_HINT)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError, MemoryError):
        raise EdgeccError(
            f"{path}: not an ONNX file, or truncated", f"fetch the file again, or {_EXPORT_HINT}"
        ) from None
    if not model.HasField("graph") or not model.graph.output or model.ir_version < 1:
        raise EdgeccError(f"{path}: not an ONNX file: it holds no graph", _EXPORT_HINT)
    if model.ir_version >= 3 and not model.opset_import:
        raise EdgeccError(f"{path}: names no operator set (opset_import)", _EXPORT_HINT)
    return model


def _tensors(path: Path, model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """All tensors of the model with the name of what holds them."""
    yield from _graph_tensors(path, model.graph, 0)
    for function in model.functions:
        yield from _node_tensors(path, function.node, 0)


def _graph_tensors(
    path: Path, graph: onnx.GraphProto, depth: int
) -> Iterator[tuple[str, onnx.TensorProto]]:
    if depth > limits.MAX_DEPTH:
        raise EdgeccError(
            f"{path}: subgraphs are nested deeper than {limits.MAX_DEPTH}", "flatten the model"
        )
    if graph.sparse_initializer:
        raise EdgeccError(
            f"{path}: sparse initializer '{graph.sparse_initializer[0].values.name}'",
            "store the weights as dense tensors",
        )
    for tensor in graph.initializer:
        yield f"initializer '{tensor.name}'", tensor
    yield from _node_tensors(path, graph.node, depth)


def _node_tensors(path, nodes, depth: int) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            owner = f"attribute '{attribute.name}' of {describe(node)}"
            if attribute.HasField("t"):
                yield owner, attribute.t
            for tensor in attribute.tensors:
                yield owner, tensor
            if attribute.HasField("g"):
                yield from _graph_tensors(path, attribute.g, depth + 1)
            for graph in attribute.graphs:
                yield from _graph_tensors(path, graph, depth + 1)


def describe(node: onnx.NodeProto) -> str:
    """How messages name a node: by its name, else by its first output."""
    output = next((name for name in node.output if name), "")
    label = f"'{node.name}'" if node.name else f"that makes '{output}'"
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"node {label} ({kind})"


def check_graph(path: Path, graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> None:
    """Sorts ``graph`` in place and refuses duplicate names, undefined values and cycles."""
    initializers = _unique(path, "initializer", [t.name for t in graph.initializer])
    inputs = _unique(path, "graph input", [i.name for i in graph.input])
    if "" in initializers or "" in inputs:
        raise EdgeccError(f"{path}: an input or initializer has no name", "export the model again")
    defined = set(inputs | initializers)
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if not name:
                continue
            if name in producer or name in defined:
                raise EdgeccError(
                    f"{path}: {describe(node)} makes '{name}', which exists already",
                    "every value of a graph needs its own name; export the model again",
                )
            producer[name] = index
    visible = frozenset(defined | set(producer)) | outer
    _check_defined(path, graph, visible)
    _sort(path, graph, producer)
    for node in graph.node:
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else []
            for subgraph in [*graphs, *attribute.graphs]:
                check_graph(path, subgraph, visible)


def _unique(path: Path, what: str, names: list[str]) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise EdgeccError(f"{path}: {what} '{name}' is there twice", "export the model again")
        seen.add(name)
    return seen


def _check_defined(path: Path, graph: onnx.GraphProto, visible: frozenset[str]) -> None:
    for node in graph.node:
        for name in node.input:
            if name and name not in visible:
                raise EdgeccError(
                    f"{path}: {describe(node)} reads '{name}', which nothing makes",
                    "export the model again",
                )
    for output in graph.output:
        if output.name not in visible:
            raise EdgeccError(
                f"{path}: graph output '{output.name}' is made by no node", "export the model again"
            )


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the node reads, those its subgraphs capture included."""
    yield from node.input
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else []
        for graph in [*graphs, *attribute.graphs]:
            for inner in graph.node:
                yield from reads(inner)
            yield from (output.name for output in graph.output)


def _sort(path: Path, graph: onnx.GraphProto, producer: dict[str, int]) -> None:
    """Orders the nodes so that values are made before they are read (Kahn's algorithm)."""
    nodes = list(graph.node)
    waiting: list[int] = []
    readers: list[list[int]] = [[] for _ in nodes]
    sorted_already = True
    for index, node in enumerate(nodes):
        makers = {producer[name] for name in reads(node) if name in producer}
        waiting.append(len(makers))
        sorted_already = sorted_already and all(maker < index for maker in makers)
        for maker in makers:
            readers[maker].append(index)
    if sorted_already:
        return
    order = [index for index, count in enumerate(waiting) if count == 0]
    for index in order:
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                order.append(reader)
    if len(order) < len(nodes):
        stuck = next(index for index, count in enumerate(waiting) if count > 0)
        raise EdgeccError(
            f"{path}: {describe(nodes[stuck])} is part of a cycle, or needs one",
            "an ONNX graph must be acyclic; export the model again",
        )
    copies = [type(nodes[index]).FromString(nodes[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(copies)
