"""Convolutions and what surrounds them, at ragged sizes, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.networks.check import check

TARGETS = [
    "host",
    "x86_64",
    "x86_64_v3",
    "x86_64_v4",
    "arm_cortex_a72",
    "arm_cortex_a7",
    "riscv64",
    "riscv_spacemit_x60",
    "riscv_sifive_x280",
]


@dataclass
class Case:
    """One convolution: input [1, ic, h, w] (or [1, ic, w]), ``kernel`` and attributes."""

    ic: int
    oc: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    op: str = "Conv"
    relu: bool = True
    dynamic: bool = False  # the weight is an input


def build(cases: list[Case], seed: int = 0) -> onnx.ModelProto:
    """All cases as independent branches of one graph, so that a library is linked once."""
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, weights = [], [], [], []
    for i, case in enumerate(cases):
        groups = case.attributes.get("group", 1)
        first, second = (case.oc, case.ic) if case.op == "Conv" else (case.ic, case.oc)
        shape = (first, second // groups, *case.kernel)
        scale = np.sqrt(1 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(rng.standard_normal(case.oc).astype("f4"), f"b{i}"))
        if case.dynamic:
            inputs.append(helper.make_tensor_value_info(f"w{i}", 1, shape))
        else:
            value = (rng.standard_normal(shape) * scale).astype("f4")
            weights.append(numpy_helper.from_array(value, f"w{i}"))
        result = f"y{i}" if not case.relu else f"c{i}"
        nodes.append(
            helper.make_node(case.op, [f"x{i}", f"w{i}", f"b{i}"], [result], **case.attributes)
        )
        if case.relu:
            nodes.append(helper.make_node("Relu", [result], [f"y{i}"]))
        inputs.append(helper.make_tensor_value_info(f"x{i}", 1, [1, case.ic, *case.size]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", 1, None))
    graph = helper.make_graph(nodes, "convolutions", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


RAGGED = [
    Case(ic, oc, (h, w), (k, k), {"pads": [k // 2] * 4, "strides": [s, s]})
    for ic, oc, h, w, k, s in [
        (1, 1, 5, 5, 3, 1),
        (3, 7, 5, 13, 3, 2),
        (7, 17, 13, 5, 1, 1),
        (17, 33, 1, 13, 1, 1),
        (33, 3, 13, 1, 1, 1),
        (33, 33, 7, 7, 5, 1),
        (16, 64, 14, 14, 1, 2),
        (64, 48, 13, 13, 3, 1),
        (512, 24, 7, 9, 3, 1),  # the sum is taken in passes where L2 has at most 512 KiB
    ]
]
FORMS = [
    Case(8, 8, (9, 9), (3, 3), {"pads": [0, 1, 2, 3]}),
    Case(7, 9, (9, 11), (2, 3), {"dilations": [2, 3], "pads": [1, 2, 2, 1]}),
    Case(16, 16, (13, 13), (3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
    Case(17, 17, (13, 5), (5, 5), {"group": 17, "pads": [2, 2, 2, 2], "strides": [2, 2]}),
    Case(33, 33, (5, 13), (1, 7), {"group": 33, "pads": [0, 3, 0, 3]}),
    Case(3, 3, (9, 1), (7, 1), {"group": 3, "pads": [3, 0, 3, 0]}, relu=False),
    Case(12, 18, (7, 7), (3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    Case(32, 64, (7, 7), (1, 1), {"group": 4}),
    Case(6, 12, (7, 7), (3, 3), {"group": 6}),
    Case(5, 13, (13,), (3,), {"pads": [1, 1]}),
    Case(7, 7, (33,), (5,), {"group": 7, "strides": [2], "pads": [2, 1]}),
    Case(5, 7, (6, 5), (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, op="ConvTranspose"),
    Case(
        8,
        12,
        (5, 5),
        (4, 4),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2},
        op="ConvTranspose",
    ),
    Case(3, 5, (7,), (3,), {"strides": [3], "output_padding": [1]}, op="ConvTranspose"),
    Case(9, 16, (5, 7), (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, op="ConvTranspose"),
    Case(8, 17, (5, 3), (2, 2), {"strides": [2, 2]}, op="ConvTranspose"),
    Case(8, 1, (5, 3), (2, 2), {"strides": [2, 2]}, op="ConvTranspose"),
    Case(
        16,
        9,
        (5, 4),
        (3, 5),
        {"strides": [2, 3], "pads": [1, 3, 1, 1], "output_padding": [1, 0]},
        op="ConvTranspose",
    ),
    Case(5, 33, (7,), (5,), {"strides": [2], "pads": [2, 1]}, op="ConvTranspose"),
    Case(
        1,
        24,
        (10, 4),
        (2, 2),
        {"strides": [3, 2], "pads": [2, 1, 2, 1], "output_padding": [1, 1], "dilations": [2, 1]},
        op="ConvTranspose",
    ),
    Case(3, 5, (9, 7), (1, 2), {"strides": [2, 1], "pads": [1, 2, 0, 1]}, op="ConvTranspose"),
    Case(4, 6, (9,), (2,), {"pads": [2, 3]}, op="ConvTranspose", dynamic=True),
    Case(6, 4, (5, 5), (3, 3), {"strides": [2, 2], "group": 2}, op="ConvTranspose", dynamic=True),
    Case(5, 11, (6, 5), (3, 2), {"pads": [1, 0, 1, 1]}, dynamic=True),
]


@pytest.mark.parametrize("target", TARGETS)
def test_ragged_convolutions(target, tmp_path):
    check(build(RAGGED), target, tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_forms_of_convolution(target, tmp_path):
    check(build(FORMS), target, tmp_path)


@st.composite
def _cases(draw) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = tuple(r + draw(st.integers(0, 9)) for r in reach)
    form = draw(st.sampled_from(["dense", "depthwise", "grouped", "transposed"]))
    channels = draw(st.sampled_from([1, 3, 7, 8, 17, 33]))
    groups = {"depthwise": channels, "grouped": draw(st.sampled_from([2, 3]))}.get(form, 1)
    ic = channels if form != "grouped" else groups * draw(st.integers(1, 5))
    oc = {"grouped": groups * draw(st.integers(1, 9)), "depthwise": channels}.get(
        form, draw(st.sampled_from([1, 5, 8, 16, 19]))
    )
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {"group": groups, "pads": pads, "dilations": dilation, "strides": strides}
    relu = draw(st.booleans())
    if form != "transposed":
        return Case(ic, oc, size, kernel, attributes, relu=relu)
    # So that something is left of the smallest result.
    attributes["pads"] = [min(p, r - 1) for p, r in zip(pads, reach * 2, strict=True)]
    attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    return Case(ic, oc, size, kernel, attributes, op="ConvTranspose", relu=relu)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=st.lists(_cases(), min_size=6, max_size=6))
def test_random_convolutions(cases, tmp_path_factory):
    check(build(cases), "host", tmp_path_factory.mktemp("fuzz"))
