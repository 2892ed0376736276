"""Pooling over packed channels on AArch64: tiles along a row, and code of their own for borders."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.networks.check import check

ATTRIBUTES = {
    "max": ("MaxPool", {"pads": [1, 1, 1, 1]}),
    "strided": ("MaxPool", {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "ceil": ("MaxPool", {"strides": [2, 2], "ceil_mode": 1}),
    "average": ("AveragePool", {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "average_padded": ("AveragePool", {"pads": [1, 1, 1, 1], "count_include_pad": 1}),
}
SIZES = [(5, 13), (3, 3), (17, 7)]


def model(channels: int) -> onnx.ModelProto:
    """Every pooling at every size, behind depthwise convolutions that pack the channels."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, 1, 1, 1)).astype("f4")
    nodes, inputs, outputs = [], [], []
    for i, size in enumerate(SIZES):
        inputs.append(helper.make_tensor_value_info(f"x{i}", 1, [1, channels, *size]))
        nodes.append(helper.make_node("Conv", [f"x{i}", "w"], [f"p{i}"], group=channels))
        for name, (op, attributes) in ATTRIBUTES.items():
            result = f"{name}{i}"
            nodes.append(
                helper.make_node(op, [f"p{i}"], [result], kernel_shape=[3, 3], **attributes)
            )
            outputs.append(helper.make_tensor_value_info(result, 1, None))
    weights = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "pooling", inputs, outputs, weights)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    result.ir_version = 8
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


@pytest.mark.parametrize("channels", [17, 20])
def test_pooling_matches_onnx_runtime(channels, tmp_path):
    program = check(model(channels), "arm_cortex_a72", tmp_path)
    pools = [c.report for c in program.calls if "pool" in c.label]
    assert len(pools) >= len(ATTRIBUTES)
    assert all(r["decision"].startswith("tile") for r in pools)
