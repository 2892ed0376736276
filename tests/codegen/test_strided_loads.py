"""Strided vector loads: the same values, from whole vectors, without reading past the end."""

import numpy as np
import pytest
from tvm import s_tir, te

from compiler.target import load_target
from tests import kernels


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("lanes", [4, 7, 8, 16])
@pytest.mark.parametrize("target", ["host", "arm_cortex_a72", "riscv_spacemit_x60"])
def test_every_nth_element(stride, lanes, target):
    count = 3 * lanes
    length = stride * (count - 1) + 1  # the last element loaded is the tensor's last
    a = te.placeholder((length,), name="a")
    b = te.compute((count,), lambda i: a[i * stride] + 1.0, name="b")
    schedule = s_tir.Schedule(te.create_prim_func([a, b]))
    (loop,) = schedule.get_loops(schedule.get_sblock("b"))
    schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    x = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    (got,) = kernels.run(schedule.mod["main"], [x], load_target(target))
    np.testing.assert_array_equal(got, x[::stride] + np.float32(1))


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72"])
def test_no_scalar_loads(target):
    a = te.placeholder((8192,), name="a")
    b = te.compute((4096,), lambda i: a[i * 2] + 1.0, name="b")
    schedule = s_tir.Schedule(te.create_prim_func([a, b]))
    (loop,) = schedule.get_loops(schedule.get_sblock("b"))
    schedule.vectorize(schedule.split(loop, [None, 8])[1])
    text = kernels.assembly(schedule.mod["main"], load_target(target))
    assert "movss" not in text
    assert any(instruction in text for instruction in ("shufps", "uzp1", "ld2"))
