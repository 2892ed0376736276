"""Local response normalisation between convolutions and of plain tensors, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.networks.check import check


def build(cases: list[tuple[tuple[int, ...], dict, bool]]) -> onnx.ModelProto:
    """Branches of (input shape, attributes, whether a convolution comes before)."""
    rng = np.random.default_rng(0)
    nodes, inputs, outputs, weights = [], [], [], []
    for i, (shape, attributes, packed) in enumerate(cases):
        x = f"x{i}"
        inputs.append(helper.make_tensor_value_info(x, 1, shape))
        if packed:
            value = rng.standard_normal((shape[1], shape[1], 1, 1)).astype("f4")
            weights.append(numpy_helper.from_array(value, f"w{i}"))
            nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"]))
            x = f"c{i}"
        nodes.append(helper.make_node("LRN", [x], [f"n{i}"], **attributes))
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", 1, shape))
    graph = helper.make_graph(nodes, "norms", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


CASES = [
    ((1, 24, 5, 7), {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 1.0}, True),
    ((2, 11, 3, 8), {"size": 3, "alpha": 2.0, "beta": 0.5}, True),
    ((1, 3, 4, 4), {"size": 9, "alpha": 1.0, "beta": 0.6, "bias": 2.0}, True),
    ((1, 16, 1, 1), {"size": 5, "alpha": 1.0}, True),
    ((1, 40, 9, 9), {"size": 1, "alpha": 1.0, "beta": 1.0}, True),
    ((2, 6, 5, 3), {"size": 5, "alpha": 1.0}, False),
    ((1, 7, 3, 5), {"size": 3, "alpha": 1.0}, False),
]


@pytest.mark.parametrize(
    "target", ["host", "x86_64", "x86_64_v4", "arm_cortex_a72", "arm_cortex_a7", "riscv64"]
)
def test_response_norm(target, tmp_path):
    program = check(build(CASES), target, tmp_path)
    templates = [call.report["template"] for call in program.calls]
    assert templates.count("response_norm") == sum(packed for *_, packed in CASES)
