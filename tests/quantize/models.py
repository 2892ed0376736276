"""Small ONNX models, and the same with ONNX' own quantise operators put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compiler.quantize.qdq import Quantum


class Builder:
    """Collects nodes; weights are seeded by their number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float | None = None) -> str:
        name = f"w{len(self.weights)}"
        spread = scale or 1 / np.sqrt(max(1, np.prod(shape[1:])))
        values = self.rng.standard_normal(shape).astype("float32") * np.float32(spread)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, name: str = "", **attrs: object) -> str:
        out = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], out, **attrs))
        return out

    def conv(self, x: str, c_in: int, c_out: int, k: int = 3, name: str = "", **attrs) -> str:
        weights = self.weight(c_out, c_in // attrs.get("group", 1), k, k)
        pads = [k // 2] * 4
        return self.node("Conv", x, weights, self.weight(c_out), name=name, pads=pads, **attrs)

    def save(
        self, path: Path, inputs: dict[str, tuple], outputs: dict[str, tuple], opset: int = 17
    ) -> Path:
        def infos(tensors):
            return [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in tensors.items()
            ]

        graph = helper.make_graph(self.nodes, "g", infos(inputs), infos(outputs), self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def with_qdq(model: onnx.ModelProto, tensors: dict[str, Quantum]) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear behind tensors (weights: in their place).

    Args:
        tensors: by the name of an input, a node's output or a weight.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes, renamed = [], {}

    def pair(name: str, quantum: Quantum) -> None:
        axis = {} if quantum.per_tensor else {"axis": quantum.axis}
        graph.initializer.append(numpy_helper.from_array(quantum.scale, f"{name}_scale"))
        graph.initializer.append(numpy_helper.from_array(quantum.zero_point, f"{name}_zero"))
        parameters = [f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], **axis))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"], **axis)
        )
        renamed[name] = f"{name}_d"

    known = {value.name for value in graph.input} | {w.name for w in graph.initializer}
    for name in [n for n in tensors if n in known]:
        pair(name, tensors[name])
    for node in list(graph.node):
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        for name in node.output:
            if name in tensors:
                pair(name, tensors[name])
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def run_onnx(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By ONNX Runtime without its rewrites: quantised operators run one by one in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)
