"""Saturating conversions to int8 on ARM, against NumPy."""

import re

import numpy as np
import pytest
from tvm import s_tir, te

from compiler.passes import integer_ops
from compiler.target import load_target
from tests.kernels import assembly, run

# Instructions that saturate, and those that bound.
TARGETS = {
    "arm_cortex_a72": (r"\bsqxtn\b", r"\b(s|f)m(ax|in)"),
    "arm_cortex_a7": (r"\bvqmovn\.s32\b", r"\bvm(ax|in)"),
}
SHAPE = (1, 1, 1, 8, 16)


def totals() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.integers(-300, 300, SHAPE)
    values.flat[:8] = [-(1 << 30), 1 << 30, -(1 << 23), 1 << 23, -(1 << 25), 40000, -32768, 32767]
    return values.astype("int32")


def vectorized(*tensors: te.Tensor, lanes: int):
    schedule = s_tir.Schedule(te.create_prim_func(tensors))
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        _, lane = schedule.split(schedule.get_loops(block)[-1], [None, lanes])
        schedule.vectorize(lane)
    return schedule.mod["main"]


@pytest.mark.parametrize(
    ("name", "zero", "lanes"),
    [("arm_cortex_a72", zero, n) for zero in (0, 7, -128, 127) for n in (4, 8, 16)]
    + [("arm_cortex_a7", 0, 16), ("arm_cortex_a7", -128, 8), ("arm_cortex_a7", 7, 4)],
)
def test_sums_saturate(name, zero, lanes):
    target = load_target(name)
    total, scale = te.placeholder(SHAPE, "int32"), te.placeholder((1, 1, 1, 1, 16), "float32")
    result = integer_ops.requantize(total, scale, zero, "int8")
    func = vectorized(total, scale, result, lanes=lanes)
    text = assembly(func, target)
    assert re.search(TARGETS[name][0], text)
    assert not re.search(TARGETS[name][1], text)
    inputs = [totals(), np.full((1, 1, 1, 1, 16), 0.5, "float32")]
    wanted = np.clip(np.rint(inputs[0] * 0.5) + zero, -128, 127)
    np.testing.assert_array_equal(run(func, inputs, target)[0], wanted)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("zero", [0, -5])
def test_reals_saturate(name, zero):
    target = load_target(name)
    x = te.placeholder(SHAPE, "float32")
    func = vectorized(x, integer_ops.quantize(x, 0.5, zero, "int8"), lanes=16)
    assert not re.search(TARGETS[name][1], assembly(func, target))
    value = (totals() * 0.25).astype("float32")
    wanted = np.clip(np.rint(value * 2) + zero, -128, 127)
    np.testing.assert_array_equal(run(func, [value], target)[0], wanted)
