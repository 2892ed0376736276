"""Depthwise and 1x1 convolutions as one kernel, at ragged sizes, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from compiler.passes import fuse_depthwise
from compiler.passes.row_blocks import Pair
from compiler.target import Target
from tests.networks.check import check

FOREIGN = ["x86_64", "arm_cortex_a7", "riscv64", "riscv_sifive_u74", "riscv_spacemit_x60"]


@dataclass
class Case:
    """Input [1, channels, *size] -> depthwise -> activation -> 1x1 to ``out`` -> activation."""

    channels: int
    out: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    between: str = "Relu6"
    after: str = ""  # "residual" adds another input, "skip" the first one
    pads: tuple[int, int, int, int] | None = None
    dilation: int = 1


CASES = [
    Case(8, 8, (8, 8)),
    Case(24, 40, (12, 20), after="residual"),
    Case(17, 33, (13, 7), between="HardSwish", after="Relu6"),
    Case(16, 24, (28, 9), stride=2),
    Case(40, 16, (15, 30), kernel=5, between="Relu", after="residual"),
    Case(32, 20, (18, 11), kernel=5, stride=2, between="HardSwish", after="residual"),
    Case(3, 5, (6, 5), between=""),
    Case(48, 8, (14, 14), between="", after="HardSwish"),
    Case(12, 12, (9, 33), pads=(0, 2, 1, 0)),
    Case(16, 16, (16, 12), pads=(0, 0, 0, 0), after="residual"),
    Case(16, 8, (21, 10), pads=(2, 2, 2, 2), dilation=2),
    Case(8, 72, (4, 50), stride=2, after="Relu"),
    Case(16, 16, (12, 21), after="skip"),
]


def build(cases: list[Case]) -> onnx.ModelProto:
    """All cases as independent branches of one graph, so that a library is linked once."""
    rng = np.random.default_rng(0)
    nodes, inputs, outputs, weights = [], [], [], []

    def weight(name: str, *shape: int) -> str:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(value.astype("f4"), name))
        return name

    def activation(kind: str, value: str) -> str:
        if kind == "Relu6":
            nodes.append(helper.make_node("Clip", [value, "zero", "six"], [f"{value}_{kind}"]))
        elif kind:
            nodes.append(helper.make_node(kind, [value], [f"{value}_{kind}"]))
        return f"{value}_{kind}" if kind else value

    weights += [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    for i, case in enumerate(cases):
        k, reach = case.kernel, case.dilation * (case.kernel - 1)
        pads = case.pads or (reach // 2,) * 4
        attributes = {"strides": [case.stride] * 2, "dilations": [case.dilation] * 2, "pads": pads}
        depthwise = [
            f"x{i}",
            weight(f"v{i}", case.channels, 1, k, k),
            weight(f"a{i}", case.channels),
        ]
        nodes.append(
            helper.make_node("Conv", depthwise, [f"d{i}"], group=case.channels, **attributes)
        )
        data = activation(case.between, f"d{i}")
        pointwise = [
            data,
            weight(f"w{i}", case.out, case.channels, 1, 1),
            weight(f"b{i}", case.out),
        ]
        nodes.append(helper.make_node("Conv", pointwise, [f"p{i}"]))
        height, width = (
            (e + pads[j] + pads[j + 2] - reach - 1) // case.stride + 1
            for j, e in enumerate(case.size)
        )
        shape = [1, case.out, height, width]
        inputs.append(helper.make_tensor_value_info(f"x{i}", 1, [1, case.channels, *case.size]))
        if case.after == "residual":
            inputs.append(helper.make_tensor_value_info(f"r{i}", 1, shape))
            nodes.append(helper.make_node("Add", [f"p{i}", f"r{i}"], [f"s{i}"]))
            result = f"s{i}"
        elif case.after == "skip":
            nodes.append(helper.make_node("Add", [f"p{i}", f"x{i}"], [f"s{i}"]))
            result = f"s{i}"
        else:
            result = activation(case.after, f"p{i}")
        nodes.append(helper.make_node("Identity", [result], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", 1, shape))
    graph = helper.make_graph(nodes, "pairs", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def one_row(target: Target, pair: Pair) -> int | None:
    return 1 if pair.height > 1 else None


def largest_block(target: Target, pair: Pair) -> int | None:
    rows = [r for r in range(1, pair.height) if pair.height % r == 0]
    return rows[-1] if rows else None


@pytest.fixture(params=[one_row, largest_block], ids=lambda p: p.__name__)
def rows(request, monkeypatch) -> Callable[[Target, Pair], int | None]:
    """Every pair becomes one kernel, whatever it costs."""
    monkeypatch.setattr(fuse_depthwise, "choose_rows", request.param)
    return request.param


def fused(program) -> int:
    return sum(call.report["template"] == "depthwise_pointwise" for call in program.calls)


@pytest.mark.parametrize(
    "target",
    ["host", "arm_cortex_a72", *(pytest.param(t, marks=pytest.mark.slow) for t in FOREIGN)],
)
def test_ragged_sizes(target, rows, tmp_path):
    program = check(build(CASES), target, tmp_path)
    assert fused(program) == len(CASES)
    assert not any("serial" in call.report for call in program.calls)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cases=st.lists(
        st.builds(
            Case,
            st.integers(1, 40),
            st.integers(1, 40),
            st.tuples(st.integers(4, 30), st.integers(1, 40)),
            st.sampled_from([3, 5]),
            st.sampled_from([1, 2]),
            st.sampled_from(["", "Relu6", "HardSwish"]),
            st.sampled_from(["", "Relu6", "residual"]),
        ),
        min_size=4,
        max_size=4,
    )
)
def test_random_sizes(cases, rows, tmp_path_factory):
    check(build(cases), "host", tmp_path_factory.mktemp("pairs"))


def test_a_large_picture_is_fused_by_the_cost(tmp_path):
    program = check(build([Case(96, 24, (112, 112), stride=2)]), "arm_cortex_a76", tmp_path)
    assert fused(program) == 1


def test_a_small_picture_is_not(tmp_path):
    program = check(build([Case(96, 24, (14, 14))]), "arm_cortex_a76", tmp_path)
    assert fused(program) == 0
