"""Conversion of rounded floats: ties to even, in one instruction where there is one."""

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from compiler.target import load_target
from tests.kernels import assembly, run

INSTRUCTION = {
    "host": "cvtps2dq",
    "x86_64": "cvtps2dq",
    "arm_cortex_a72": "fcvtns",
    "riscv_spacemit_x60": "vfcvt.x.f.v",
    "arm_cortex_a7": "",
}


def nearest(size: int, lanes: int) -> tirx.PrimFunc:
    x = te.placeholder((size,), "float32", name="x")
    y = te.compute((size,), lambda i: te.round(x[i]).astype("int32"), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    return schedule.mod["main"]


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("name", INSTRUCTION)
def test_ties_go_to_even(name, lanes):
    x = np.arange(-40, 40, 0.25, dtype="float32").reshape(-1)
    x[:4] = 1e6 + 0.5, -1e6 - 1.5, 8388607.0, -0.0
    target = load_target(name)
    func = nearest(len(x), lanes)
    np.testing.assert_array_equal(run(func, [x], target)[0], np.rint(x).astype("int32"))
    text = assembly(func, target)
    assert INSTRUCTION[name] in text
    if INSTRUCTION[name]:
        assert "roundps" not in text
        assert "frint" not in text
