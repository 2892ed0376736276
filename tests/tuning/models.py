"""Small networks to tune, and a tuner without processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compiler.tuning.builders import Builders
from compiler.tuning.candidates import Candidate, Request


def small_network(path: Path) -> Path:
    """A 3x3 convolution, a 1x1 convolution and a product, all with a choice of schedules."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 8, 3, 3)) * 0.1,
        "w2": rng.standard_normal((32, 16, 1, 1)) * 0.1,
        "w3": rng.standard_normal((32, 10)) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", 1, [1, 8, 24, 24])],
        [helper.make_tensor_value_info("y", 1, [1, 10])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


class FakeBuilders(Builders):
    """A candidate for each request in no time; its library is its values as text.

    Args:
        broken: values that can't be built.
        same: values -> values whose code they share.
        plain: values that do without the intrinsic.
    """

    name = "nobody"

    def __init__(
        self,
        broken: Sequence[tuple[int, ...]] = (),
        same: dict[tuple[int, ...], tuple[int, ...]] | None = None,
        plain: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self.broken, self.same, self.plain = broken, same or {}, plain
        self.built: list[tuple[int, ...]] = []

    def build(self, requests: Sequence[Request]):
        for request in requests:
            self.built.append(request.values)
            if request.values in self.broken:
                yield "does not compile"
                continue
            code = self.same.get(request.values, request.values)
            trace = [
                [["SampleCategorical", [], [[value], [1.0]], [f"v{i}"]] for i, value in
                 enumerate(request.values)],
                [[i, 0] for i in range(len(request.values))],
            ]  # fmt: skip
            record = {
                "trace": trace,
                "target": {"kind": "llvm"},
                "arguments": [],
                "template": "conv2d",
            }
            yield Candidate(
                request.values,
                str(code).encode(),
                ("o f 4",),
                4,
                f"{hash((request.function, code))}",
                f"decision {request.values}",
                record,
                "" if self.plain is None or request.values in self.plain else "dot",
            )

    def close(self) -> None:
        pass
