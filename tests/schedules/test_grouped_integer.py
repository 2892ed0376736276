"""Grouped convolutions of bytes against NumPy, natively and under emulation."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, te

import schedules
from compiler.passes import integer_ops
from compiler.passes.channel_order import ChannelOrder
from compiler.passes.dot_layout import DotLayout, dot_layouts
from compiler.passes.integer_groups import arrange
from compiler.passes.packed_ops import Window
from compiler.passes.packed_values import Packed, pack_constant
from compiler.target import Target, load_target
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests.kernels import run

# (input channels, output channels, groups, height, width, kernel, stride, order of the input)
CASES = {
    "padded": (48, 44, 4, 5, 7, 1, 1, "padded"),
    "shuffled": (136, 40, 4, 5, 7, 1, 1, "shuffled"),
    "short": (64, 64, 16, 7, 8, 3, 2, ""),
    "behind_groups": (136, 20, 1, 3, 5, 1, 1, "padded"),
}
TARGETS = ("host", "x86_64", "arm_cortex_a76", "arm_cortex_a72", "riscv_spacemit_x60")


def layouts() -> list[tuple[str, DotLayout]]:
    found = [(name, dot) for name in TARGETS for dot in dot_layouts(load_target(name))]
    return [(name, dot) for name, dot in found if dot.parts == 1]


def name_of(value: object) -> str:
    return value.operand if isinstance(value, DotLayout) else str(value)


class Problem:
    """One convolution."""

    def __init__(self, case: tuple, dot: DotLayout) -> None:
        ic, self.oc, self.groups, height, width, k, s, order = case
        rng = np.random.default_rng(0)
        self.dot, self.window = dot, Window((k, k), (s, s), (k // 2,) * 4, (1, 1))
        self.low, self.high = (0, 255) if dot.activation == "uint8" else (-128, 127)
        self.zero = self.low + 3
        self.plain = rng.integers(self.low, self.high + 1, (1, ic, height, width))
        size = ic // 4
        stride = -(-size // dot.block) * dot.block
        channels = ChannelOrder(4, size, stride, order == "shuffled") if order else None
        like = Packed(relax.const(np.zeros(1)), self.plain.shape, dot.block, order=channels)
        packed = pack_constant(self.plain, like).astype(dot.activation)
        self.x = packed.reshape(1, -1, 1, height * width, dot.block) if k == 1 else packed
        most = 127 if dot.most_neighbours is None else dot.most_neighbours // 2
        weight = rng.integers(-most, most + 1, (self.oc, ic // self.groups, k, k))
        self.weight = weight.astype("int8")
        found = arrange(self.weight, self.groups, like, dot)
        assert found is not None
        assert found.suits(dot)
        self.arrangement = found
        self.bias = rng.integers(-3000, 3000, self.oc)
        self.scale = rng.uniform(0.0005, 0.002, self.oc).astype("float32")

    @property
    def inputs(self) -> list[np.ndarray]:
        return [
            self.x,
            self.arrangement.weight,
            pack_constant(self.bias[None, :, None, None], self.result).astype("int32"),
            pack_constant(self.scale[None, :, None, None], self.result),
        ]

    @property
    def result(self) -> Packed:
        height, width = self.window.output_size(*self.plain.shape[2:])
        shape = (1, self.oc, height, width)
        order = self.arrangement.order
        return Packed(relax.const(np.zeros(1)), shape, self.dot.block, order=order)

    def run(self, target: Target) -> None:
        tensors = [te.placeholder(v.shape, str(v.dtype)) for v in self.inputs]
        x, w, bias, scale = tensors
        groups = self.arrangement.groups
        total = integer_ops.conv2d(x, w, bias, self.window, self.zero, self.dot, groups)
        result = integer_ops.requantize(total, scale, 7, self.dot.activation)
        func = te.create_prim_func([*tensors, result]).with_attr(CONSTANT_INPUTS, [1, 2, 3])
        func, report = schedules.apply(func, target)
        assert report["template"] == "conv2d_integer"
        inputs = self.inputs
        for position, wanted in rearrangements(func).items():
            inputs[position] = wanted.apply(inputs[position])
        (got,) = run(func, inputs, target)
        height, width = self.result.spatial
        slots = got.reshape(-1, height, width, self.dot.block).transpose(0, 3, 1, 2)
        channels = np.arange(self.oc)
        order = self.arrangement.order
        channels = channels if order is None else order.slot(channels)
        found = slots.reshape(-1, height, width)[channels]
        # Sums are exact; only their scaling rounds, at ties.
        assert np.abs(found - self.expected()).max() <= 0.5 + 1e-3

    def expected(self) -> np.ndarray:
        """[OC, OH, OW] before rounding."""
        k, s = self.window.kernel[0], self.window.strides[0]
        around = [(0, 0), (k // 2, k // 2), (k // 2, k // 2)]
        x = np.pad(self.plain[0], around, constant_values=self.zero)
        x = x.reshape(self.groups, -1, *x.shape[1:])
        weight = self.weight.astype("int64").reshape(self.groups, -1, *self.weight.shape[1:])
        height, width = self.result.spatial
        total = np.zeros((self.groups, weight.shape[1], height, width), "int64")
        for i in range(k):
            for j in range(k):
                part = x[:, :, i : i + height * s : s, j : j + width * s : s]
                part = part[:, :, :height, :width]
                total += np.einsum("gchw,goc->gohw", part, weight[..., i, j])
        sums = total.reshape(self.oc, height, width) + self.bias[:, None, None]
        real = sums * self.scale.astype("float64")[:, None, None] + 7
        return np.clip(real, self.low, self.high)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "dot"), layouts(), ids=name_of)
def test_sums_are_exact(name, dot, case):
    Problem(CASES[case], dot).run(load_target(name))
