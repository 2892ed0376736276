"""Convolutions of bytes against NumPy, natively and under emulation."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

import schedules
from compiler.passes import integer_ops
from compiler.passes.dot_layout import DotLayout, dot_layouts, wide_layouts
from compiler.passes.packed_ops import Window
from compiler.target import Target, load_target
from schedules.choices import Listing, TakeValues, take_default
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests.kernels import assembly, host, run

# (input channels, output channels, height, width, kernel, stride, padding, dilation)
CASES = {
    "pointwise": (24, 40, 7, 7, 1, 1, 0, 1),
    "window": (16, 24, 9, 11, 3, 1, 1, 1),
    "stride": (8, 8, 11, 13, 3, 2, 1, 1),
    "first_layer": (3, 16, 12, 12, 3, 2, 1, 1),
    "few_channels": (3, 8, 8, 16, 5, 1, 0, 1),
    "ragged_channels": (20, 13, 6, 5, 3, 1, 1, 1),
    "dilated": (8, 16, 12, 9, 3, 1, 2, 2),
    "wide_row": (8, 16, 1, 37, 1, 1, 0, 1),
}
TARGETS = ("host", "x86_64", "arm_cortex_a76", "arm_cortex_a72", "riscv_spacemit_x60")


class Problem:
    """One convolution with data that reaches every corner of its types."""

    def __init__(self, case: tuple[int, ...], layout: DotLayout, seed: int = 0) -> None:
        ic, oc, height, width, k, stride, pad, dilation = case
        rng = np.random.default_rng(seed)
        info = np.iinfo(layout.activation)
        low, high = int(info.min), int(info.max)
        whole = layout.group == 1 and ic > 3  # of the layer before
        block = layout.block if whole else layout.input_block(ic, dilation)
        self.layout, self.oc, self.zero = layout, oc, low + 3
        self.window = Window((k, k), (stride, stride), (pad,) * 4, (dilation, dilation))
        x = rng.integers(low, high + 1, (1, ic, height, width))
        x.flat[0], x.flat[-1] = low, high
        padded = np.full((1, -(-ic // block) * block, height, width), high)  # garbage
        padded[:, :ic] = x
        packed = padded.reshape(1, -1, block, height, width).transpose(0, 1, 3, 4, 2)
        self.x = np.ascontiguousarray(packed.astype(layout.activation))
        self.plain_x = x
        self.weight = rng.integers(-127, 128, (oc, ic, k, k)).astype("int8")
        self.weight[0] = 127
        if layout.most_neighbours is not None:
            largest = layout.most_neighbours // (2 * layout.parts)
            self.weight = np.clip(self.weight, -largest, largest)
        lanes = -(-oc // layout.block) * layout.block
        self.bias = rng.integers(-3000, 3000, (1, lanes // layout.block, 1, 1, layout.block))
        scale = rng.uniform(0.0005, 0.002, self.bias.shape) / info.dtype.itemsize**8
        self.scale = scale.astype("float32")

    def function(self):
        tensors = [
            te.placeholder(self.x.shape, self.layout.activation, name="x"),
            te.placeholder(self.packed_weight.shape, "int8", name="w"),
            te.placeholder(self.bias.shape, "int32", name="bias"),
            te.placeholder(self.scale.shape, "float32", name="scale"),
        ]
        x, w, bias, scale = tensors
        total = integer_ops.conv2d(x, w, bias, self.window, self.zero, self.layout)
        result = integer_ops.requantize(total, scale, 7, self.layout.activation)
        return te.create_prim_func([*tensors, result])

    @property
    def packed_weight(self) -> np.ndarray:
        return integer_ops.pack_weight(self.weight, self.layout, self.x.shape[-1])

    @property
    def inputs(self) -> list[np.ndarray]:
        return [self.x, self.packed_weight, self.bias.astype("int32"), self.scale]

    def expected(self) -> np.ndarray:
        """[1, OC, OH, OW] before rounding."""
        top = self.window.pads[0]
        (k, _), (s, _), (d, _) = self.window.kernel, self.window.strides, self.window.dilation
        x = np.pad(
            self.plain_x.astype("int64"),
            [(0, 0), (0, 0), (top, top), (top, top)],
            constant_values=self.zero,
        )
        oh, ow = self.window.output_size(*self.plain_x.shape[2:])
        total = np.zeros((1, self.oc, oh, ow), "int64")
        for i in range(k):
            for j in range(k):
                part = x[:, :, i * d : i * d + oh * s : s, j * d : j * d + ow * s : s]
                tap = self.weight[:, :, i, j].astype("int64")
                total += np.einsum("nchw,oc->nohw", part[:, :, :oh, :ow], tap)
        along = [a.reshape(-1)[: self.oc, None, None] for a in (self.bias, self.scale)]
        return (total + along[0]) * along[1].astype("float64") + 7

    def check(self, result: np.ndarray) -> None:
        info = np.iinfo(self.layout.activation)
        wanted = np.clip(self.expected(), info.min, info.max)
        got = result.transpose(0, 1, 4, 2, 3).reshape(1, -1, *wanted.shape[2:])[:, : self.oc]
        # Sums are exact; only their scaling rounds, at ties.
        assert np.abs(got - wanted).max() <= 0.501 + 2e-7 * (info.max - info.min)


def run_scheduled(problem: Problem, func, target: Target) -> np.ndarray:
    inputs = problem.inputs
    for position, wanted in rearrangements(func).items():
        inputs[position] = wanted.apply(inputs[position])
    return run(func, inputs, target)[0]


def scheduled(problem: Problem, target: Target, choose=take_default):
    func = problem.function().with_attr(CONSTANT_INPUTS, [1, 2, 3])
    result, report = schedules.apply(func, target, choose)
    assert report["template"] == "conv2d_integer"
    assert "intrinsic" in report
    return result


def layouts() -> list[tuple[str, DotLayout]]:
    return [(name, dot) for name in TARGETS for dot in dot_layouts(load_target(name))]


def name_of(value: object) -> str:
    return f"{value.operand}x{value.group}" if isinstance(value, DotLayout) else str(value)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "layout"), layouts(), ids=name_of)
def test_sums_are_exact(name, layout, case):
    target = load_target(name)
    problem = Problem(CASES[case], layout)
    problem.check(run_scheduled(problem, scheduled(problem, target), target))


@pytest.mark.parametrize("case", ["first_layer", "ragged_channels", "stride"])
@pytest.mark.parametrize("name", ["host", "riscv_spacemit_x60"])
def test_sums_of_words_are_exact(name, case):
    """Activations of 16 bits, weights of 8."""
    target = load_target(name)
    (layout,) = wide_layouts(target)
    problem = Problem(CASES[case], layout)
    problem.check(run_scheduled(problem, scheduled(problem, target), target))


@pytest.mark.parametrize("case", ["first_layer", "ragged_channels"])
def test_sums_are_exact_on_32_bit_arm(case):
    target = load_target("arm_cortex_a7")
    (layout,) = dot_layouts(target)
    problem = Problem(CASES[case], layout)
    func = scheduled(problem, target)
    problem.check(run_scheduled(problem, func, target))
    assert re.search(r"vpadal\.s16", assembly(func, target))


@pytest.mark.parametrize(
    "case", ["first_layer", "ragged_channels", "dilated", "wide_row", "stride"]
)
def test_sums_of_pairs_are_exact(case):
    """Two pixels by two channels at a time, in rows of odd length too."""
    target = load_target("arm_neoverse_n2")
    layout = dot_layouts(target)[0]
    assert layout.pairs_pixels
    problem = Problem(CASES[case], layout)
    problem.check(run_scheduled(problem, scheduled(problem, target), target))


def test_loops_of_pairs_multiply():
    """Most of the loop does, and nothing of it is on the stack."""
    target = load_target("arm_neoverse_n2")
    problem = Problem((256, 64, 14, 14, 3, 1, 1, 1), dot_layouts(target)[0])
    text = assembly(scheduled(problem, target), target)
    loop = max(re.split(r"^\.LBB\w+:", text, flags=re.M), key=lambda part: part.count("smmla"))
    loop = loop.partition("\tb.ne")[0]
    instructions = re.findall(r"^\t([a-z]\S*)", loop, re.M)
    assert instructions.count("smmla") >= 0.6 * len(instructions)
    assert "[sp" not in loop


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_shape_and_decision(data):
    """Every decision that is offered gives the same result."""
    target = host()
    layout = data.draw(st.sampled_from(dot_layouts(target)))
    k = data.draw(st.sampled_from([1, 3]))
    case = (
        data.draw(st.integers(1, 20)),
        data.draw(st.integers(1, 30)),
        data.draw(st.integers(k, 9)),
        data.draw(st.integers(k, 20)),
        k,
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(0, k // 2)),
        1,
    )
    problem = Problem(case, layout, seed=data.draw(st.integers(0, 99)))
    listing = Listing()
    scheduled(problem, target, listing)
    values = data.draw(st.sampled_from(listing.space.rows))
    func = scheduled(problem, target, TakeValues(values))
    problem.check(run_scheduled(problem, func, target))


@pytest.mark.parametrize("name", ["arm_cortex_a72", "arm_cortex_a76", "arm_neoverse_n2"])
def test_decisions_of_lanes(name):
    """The same under emulation, for some of them."""
    target = load_target(name)
    problem = Problem((24, 40, 7, 10, 3, 1, 1, 1), dot_layouts(target)[0])
    listing = Listing()
    scheduled(problem, target, listing)
    rows = listing.space.rows
    for values in rows[1 :: len(rows) // 4]:
        problem.check(
            run_scheduled(problem, scheduled(problem, target, TakeValues(values)), target)
        )
