"""Matrix products at ragged sizes, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.networks.check import check

TARGETS = ["host", "x86_64", "x86_64_v4", "arm_cortex_a72", "arm_cortex_a7", "riscv64"]


@dataclass(frozen=True)
class Case:
    """left x right, plus a bias of the columns; the right operand is constant or an input."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    constant: bool = True


def build(cases: list[Case], seed: int = 0) -> onnx.ModelProto:
    """All cases as independent branches of one graph."""
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, weights = [], [], [], []
    for i, case in enumerate(cases):
        value = rng.standard_normal(case.right).astype("f4") / np.sqrt(case.right[-2])
        bias = rng.standard_normal(case.right[-1]).astype("f4")
        weights.append(numpy_helper.from_array(bias, f"bias{i}"))
        if case.constant:
            weights.append(numpy_helper.from_array(value.astype("f4"), f"b{i}"))
        else:
            inputs.append(helper.make_tensor_value_info(f"b{i}", 1, case.right))
        inputs.append(helper.make_tensor_value_info(f"a{i}", 1, case.left))
        outputs.append(helper.make_tensor_value_info(f"y{i}", 1, None))
        nodes += [
            helper.make_node("MatMul", [f"a{i}", f"b{i}"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", f"bias{i}"], [f"s{i}"]),
            helper.make_node("Tanh", [f"s{i}"], [f"y{i}"]),
        ]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


CASES = [
    Case((1, 1), (1, 1)),
    Case((1, 33), (33, 17)),
    Case((7, 3), (3, 5)),
    Case((13, 17), (17, 64)),
    Case((1, 5, 33), (33, 100)),
    Case((2, 3, 13, 8), (2, 3, 8, 13), constant=False),
    Case((2, 3, 13, 8), (3, 8, 1), constant=False),
    Case((4, 7, 16), (4, 16, 9)),
    Case((1, 7, 16), (4, 16, 9), constant=False),
    Case((130, 96), (96, 48)),
]


@pytest.mark.parametrize("target", TARGETS)
def test_products(target, tmp_path):
    check(build(CASES), target, tmp_path)


_extent = st.sampled_from([1, 2, 5, 7, 8, 16, 17, 33])
_batch = st.lists(st.sampled_from([1, 3]), max_size=2)


@st.composite
def _cases(draw) -> Case:
    batch = draw(_batch)
    rows, depth, columns = draw(_extent), draw(_extent), draw(_extent)
    right_batch = draw(st.sampled_from([batch, [1] * len(batch), []]))
    return Case((*batch, rows, depth), (*right_batch, depth, columns), draw(st.booleans()))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=st.lists(_cases(), min_size=6, max_size=6))
def test_random_products(cases, tmp_path_factory):
    check(build(cases), "host", tmp_path_factory.mktemp("fuzz"))
