"""Depthwise convolutions of bytes against NumPy, under emulation."""

import re

import numpy as np
import pytest
from tvm import s_tir, te

import schedules
from compiler.passes import integer_depthwise, integer_ops
from compiler.passes.dot_layout import dot_layouts
from compiler.passes.packed_ops import Window
from compiler.target import load_target
from schedules import depthwise_integer
from schedules.choices import Listing, TakeValues, take_default
from tests.kernels import assembly, run

# (channels, height, width, kernel, stride, padding, dilation)
CASES = {
    "even": (32, 8, 12, 3, 1, 1, 1),
    "ragged": (16, 7, 21, 3, 1, 1, 1),
    "stride": (16, 11, 9, 3, 2, 1, 1),
    "no_padding": (16, 6, 9, 3, 1, 0, 1),
    "wide_window": (16, 9, 8, 5, 1, 2, 1),
    "dilated": (16, 9, 8, 3, 1, 2, 2),
}
ZERO_IN, ZERO_OUT = -125, 9


class Problem:
    """One convolution with data that reaches every corner of its types."""

    def __init__(self, case: tuple[int, ...], block: int = 16, by_tap: bool = False) -> None:
        channels, height, width, k, stride, pad, dilation = case
        channels = max(channels, 8 * block) if by_tap else channels  # so that nothing is copied
        rng = np.random.default_rng(0)
        self.block, self.by_tap = block, by_tap
        self.window = Window((k, k), (stride, stride), (pad,) * 4, (dilation, dilation))
        self.plain = rng.integers(-128, 128, (1, channels, height, width))
        self.plain[:, 0] = -128
        self.weight = rng.integers(-127, 128, (channels, 1, k, k)).astype("int8")
        self.weight[0], self.weight[1] = -127, 127
        self.bias = rng.integers(-3000, 3000, channels)
        self.scale = rng.uniform(0.0005, 0.002, channels).astype("float32")

    @property
    def inputs(self) -> list[np.ndarray]:
        blocks = self.plain.reshape(1, -1, self.block, *self.plain.shape[2:])
        per_channel = (1, -1, 1, 1, self.block)
        return [
            np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2)).astype("int8"),
            integer_depthwise.pack_weight(self.weight, self.block),
            self.bias.astype("int32").reshape(per_channel),
            self.scale.reshape(per_channel),
        ]

    def function(self):
        tensors = [te.placeholder(v.shape, str(v.dtype)) for v in self.inputs]
        x, w, bias, scale = tensors
        form = integer_depthwise.depthwise_conv2d
        if self.by_tap:
            form = integer_depthwise.depthwise_conv2d_by_tap
        total = form(x, w, bias, self.window, ZERO_IN)
        return te.create_prim_func(
            [*tensors, integer_ops.requantize(total, scale, ZERO_OUT, "int8")]
        )

    def expected(self) -> np.ndarray:
        """[1, C, OH, OW] before rounding."""
        pad = self.window.pads[0]
        (k, _), (s, _), (d, _) = self.window.kernel, self.window.strides, self.window.dilation
        around = [(0, 0), (0, 0), (pad, pad), (pad, pad)]
        x = np.pad(self.plain, around, constant_values=ZERO_IN)
        oh, ow = self.window.output_size(*self.plain.shape[2:])
        total = np.tile(self.bias[None, :, None, None], (1, 1, oh, ow))
        for i in range(k):
            for j in range(k):
                part = x[:, :, i * d : i * d + oh * s : s, j * d : j * d + ow * s : s]
                tap = self.weight[None, :, :, i, j, None].astype("int64")
                total += part[:, :, :oh, :ow] * tap
        return total * self.scale.astype("float64")[:, None, None] + ZERO_OUT

    def check(self, result: np.ndarray) -> None:
        wanted = np.clip(self.expected(), -128, 127)
        got = result.transpose(0, 1, 4, 2, 3).reshape(wanted.shape)
        assert np.abs(got - wanted).max() <= 0.5 + 1e-3


def scheduled(problem: Problem, target, choose=take_default):
    schedule = s_tir.Schedule(problem.function())
    report = depthwise_integer.apply(schedule, target, choose)
    assert report is not None
    assert report["template"] == "depthwise_integer"
    return schedule.mod["main"]


@pytest.mark.parametrize(
    ("name", "case"),
    [("arm_cortex_a72", c) for c in CASES] + [("arm_cortex_a7", c) for c in ("ragged", "stride")],
)
def test_sums_are_exact(name, case):
    target = load_target(name)
    problem = Problem(CASES[case])
    problem.check(run(scheduled(problem, target), problem.inputs, target)[0])


@pytest.mark.parametrize("case", ["ragged", "stride", "wide_window"])
@pytest.mark.parametrize("name", ["riscv_spacemit_x60", "riscv_sifive_x280"])
def test_sums_of_widened_products(name, case):
    target = load_target(name)
    (layout,) = dot_layouts(target)
    problem = Problem(CASES[case], layout.block, by_tap=True)
    func, report = schedules.apply(problem.function(), target)
    assert report["template"] == "depthwise"
    problem.check(run(func, problem.inputs, target)[0])
    text = assembly(func, target)
    assert text.count("vwmacc") > 10 * text.count("vmacc")


def test_long_products_of_32_bit_arm():
    """Weights are not widened before the loop over pixels, which has no room for them."""
    text = assembly(
        scheduled(Problem(CASES["even"]), load_target("arm_cortex_a7")),
        load_target("arm_cortex_a7"),
    )
    assert text.count("vmull.s8") > text.count("vmlal.s8") > 0
    assert not re.search(r"vmovl\.s8|vm(ul|la)\.i16", text)


def test_every_decision_gives_the_same():
    target = load_target("host")
    problem = Problem(CASES["stride"])
    listing = Listing()
    scheduled(problem, target, listing)
    for values in listing.space.rows[::4]:
        func = scheduled(problem, target, TakeValues(values))
        problem.check(run(func, problem.inputs)[0])
