"""Saturating conversions to int8 on AArch64, against NumPy."""

import re

import numpy as np
import pytest
from tvm import s_tir, te

from compiler.passes import integer_ops
from compiler.target import load_target
from tests.kernels import assembly, run

TARGET = load_target("arm_cortex_a72")
SHAPE = (1, 1, 1, 8, 16)


def totals() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.integers(-300, 300, SHAPE)
    values.flat[:8] = [-(1 << 30), 1 << 30, -40000, 40000, -32768, 32767, -1, 0]
    return values.astype("int32")


def vectorized(*tensors: te.Tensor, lanes: int):
    schedule = s_tir.Schedule(te.create_prim_func(tensors))
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        _, lane = schedule.split(schedule.get_loops(block)[-1], [None, lanes])
        schedule.vectorize(lane)
    return schedule.mod["main"]


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("zero", [0, 7, -128, 127])
def test_sums_saturate(zero, lanes):
    total, scale = te.placeholder(SHAPE, "int32"), te.placeholder((1, 1, 1, 1, 16), "float32")
    result = integer_ops.requantize(total, scale, zero, "int8")
    func = vectorized(total, scale, result, lanes=lanes)
    assert re.search(r"\bsqxtn\b", assembly(func, TARGET))
    assert not re.search(r"\bsm(ax|in)\b", assembly(func, TARGET))
    inputs = [totals(), np.full((1, 1, 1, 1, 16), 0.5, "float32")]
    wanted = np.clip(np.rint(inputs[0] * 0.5) + zero, -128, 127)
    np.testing.assert_array_equal(run(func, inputs, TARGET)[0], wanted)


@pytest.mark.parametrize("zero", [0, -5])
def test_reals_saturate(zero):
    x = te.placeholder(SHAPE, "float32")
    func = vectorized(x, integer_ops.quantize(x, 0.5, zero, "int8"), lanes=16)
    assert not re.search(r"\bf(max|min)", assembly(func, TARGET))
    value = (totals() * 0.25).astype("float32")
    wanted = np.clip(np.rint(value * 2) + zero, -128, 127)
    np.testing.assert_array_equal(run(func, [value], TARGET)[0], wanted)
