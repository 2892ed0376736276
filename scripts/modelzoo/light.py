"""Random weights for the light models of the onnx package.

Those are real architectures whose weights were replaced by constant fills to keep the files small.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import RandomWeights

# Random residual branches at full scale amplify rounding a thousandfold; trained ones do not.
BRANCH_SCALE = 0.25


def source_path(name: str) -> Path:
    """File of the light model ``name`` inside the installed onnx package."""
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def with_random_weights(path: Path, logit_scale: float = 1.0) -> onnx.ModelProto:
    """The light model at ``path`` with seeded weights in the place of its constant fills.

    Convolution and dense weights are He-scaled, norm parameters near the identity with positive
    variances, so that activations stay finite and differ. Dimensions and nodes stay as they are.

    Args:
        logit_scale: factor on the weights of the last convolution or dense layer; holds the
            growth of residual sums off the closing Softmax, which would saturate.
    """
    model = onnx.load(path)
    graph = model.graph
    shapes = _filled_shapes(graph)
    consumers = _consumers(graph)
    source = RandomWeights(zlib.crc32(path.name.encode()))
    last = [node for node in graph.node if node.op_type in ("Conv", "Gemm")][-1]
    first = next(node for node in graph.node if node.op_type == "Conv")
    fresh = []
    for name, shape in shapes.items():
        node, position = consumers[name]
        value = _draw(source, node, position, shape, rectified=node is not first)
        if node is last:
            value = value * np.float32(logit_scale)
        if node.op_type == "BatchNormalization" and position == 1 and _ends_branch(graph, node):
            value = value * np.float32(BRANCH_SCALE)
        fresh.append(numpy_helper.from_array(value, name))
    used = {name for node in graph.node if node.op_type != "ConstantOfShape" for name in node.input}
    kept = [c for c in graph.initializer if c.name in used and c.name not in shapes]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    constants = {c.name for c in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    rebuilt = helper.make_graph(nodes, graph.name, inputs, graph.output, [*kept, *fresh])
    result = helper.make_model(rebuilt, opset_imports=model.opset_import, ir_version=8)
    onnx.checker.check_model(result, full_check=True)
    return result


def _ends_branch(graph: onnx.GraphProto, norm: onnx.NodeProto) -> bool:
    """Whether the result is the first operand of a residual sum: a branch, not the shortcut."""
    sums = [node for node in graph.node if node.op_type in ("Add", "Sum")]
    return any(node.input[0] == norm.output[0] for node in sums)


def _filled_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all float weights: initializers, and constant fills by the fill's shape."""
    constants = {c.name: c for c in graph.initializer}
    shapes = {c.name: tuple(c.dims) for c in graph.initializer if c.data_type == 1}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            extents = numpy_helper.to_array(constants[node.input[0]])
            shapes[node.output[0]] = tuple(int(extent) for extent in extents)
    consumed = {name for node in graph.node for name in node.input}
    return {name: shape for name, shape in shapes.items() if name in consumed}


def _consumers(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """Each value's first consumer and the input's position there, looking through Unsqueeze."""
    consumers: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in reversed(graph.node):
        for position, name in enumerate(node.input):
            through = node.op_type == "Unsqueeze"
            consumers[name] = consumers[node.output[0]] if through else (node, position)
    return consumers


def _draw(
    source: RandomWeights, node: onnx.NodeProto, position: int, shape: tuple[int, ...], **he
) -> np.ndarray:
    role = (node.op_type, position)
    if role == ("Conv", 1):
        return source.he(*shape, **he)
    if role == ("Gemm", 1):
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return source.he(*shape, **he) if transposed else source.he(*shape[::-1], **he).T
    if role == ("BatchNormalization", 4):
        return source.near(1.0, 0.4, *shape)
    if role == ("BatchNormalization", 1) or node.op_type == "Mul":
        return source.near(1.0, 0.2, *shape)
    return source.near(0.0, 0.1, *shape)
