"""Ragged tiles are split off whatever the width of the index variables."""

import numpy as np
import pytest
import tvm_ffi
from tvm import s_tir, te, tirx

from compiler.codegen.lower import lower
from tests import kernels


def scheduled(rows: int, index: str) -> tirx.PrimFunc:
    """x + 1 over [rows, 8] in blocks of 6 rows, with a hint at the blocks."""
    x = te.placeholder((tirx.const(rows, index), tirx.const(8, index)), "float32", name="x")
    y = te.compute(x.shape, lambda i, j: x[i, j] + 1.0, name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    row, lane = sch.get_loops(sch.get_sblock("y"))
    outer, inner = sch.split(row, [None, 6])
    sch.annotate(outer, "pragma_loop_partition_hint", 1)
    sch.unroll(inner)
    sch.vectorize(lane)
    return sch.mod["main"]


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("rows", [12, 13, 17])
def test_no_condition_stays(rows, index):
    func = scheduled(rows, index)
    lowered = lower({"kernel": func}, kernels.host())["kernel"].func
    conditions: list[tirx.Stmt] = []
    tvm_ffi.structural_walk(lowered.body, [(tirx.IfThenElse, conditions.append)])
    assert not conditions
    x = np.arange(rows * 8, dtype=np.float32).reshape(rows, 8)
    np.testing.assert_array_equal(kernels.run(func, [x])[0], x + 1)
