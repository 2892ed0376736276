"""Dead code: nodes that no graph output needs are never looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.frontend.load import reads

if TYPE_CHECKING:
    import onnx


def live_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a sorted graph that its outputs depend on, in order."""
    needed = {output.name for output in graph.output}
    live = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            live.append(node)
            needed.update(reads(node))
    return live[::-1]
