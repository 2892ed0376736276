"""Loops over a block's rows: code of their own for the rows at the borders."""

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from compiler.codegen.vector_loops import BRANCH
from compiler.codegen.vector_loops import vectorize_annotated_loops as rewrite
from tests import kernels


def test_each_stretch_has_a_copy_without_conditions():
    @T.prim_func(private=True)
    def before(a: T.Buffer((12,), "float32"), b: T.Buffer((12,), "float32")):
        for block in range(3):
            for i in T.serial(4, annotations={BRANCH: 12}):
                if block * 4 + i >= 1 and block * 4 + i < 11:
                    b[block * 4 + i] = a[block * 4 + i]
                else:
                    b[block * 4 + i] = T.float32(0)

    @T.prim_func(private=True)
    def after(a: T.Buffer((12,), "float32"), b: T.Buffer((12,), "float32")):
        for block in range(3):
            for i in range(4):
                if block * 4 + i < 1:
                    b[0] = T.float32(0)
                else:
                    if block * 4 + i < 11:
                        b[block * 4 + i] = a[block * 4 + i]
                    else:
                        b[11] = T.float32(0)

    module = tvm.IRModule({"main": rewrite(before)})
    simple = tirx.transform.StmtSimplify()(module)["main"]
    tvm.ir.assert_structural_equal(simple, after)


def windows(blocks: int, rows: int, stride: int, taps: int) -> tirx.PrimFunc:
    """Sums of windows with zeros around, in blocks of rows; the input ends before the last ones."""
    count = blocks * rows
    size = (count - 1) * stride + 1

    @T.prim_func(private=True)
    def func(a: T.Buffer((size,), "float32"), b: T.Buffer((count,), "float32")):
        for block in T.parallel(blocks):
            for i in T.serial(rows, annotations={BRANCH: count}):
                b[block * rows + i] = T.float32(0)
                for k in range(taps):
                    b[block * rows + i] = b[block * rows + i] + T.if_then_else(
                        taps // 2 <= (block * rows + i) * stride + k
                        and (block * rows + i) * stride + k < size + taps // 2,
                        a[(block * rows + i) * stride + k - taps // 2],
                        T.float32(0),
                    )

    return func


@pytest.mark.parametrize(("blocks", "rows"), [(5, 1), (3, 2), (2, 7), (1, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_windows_match_numpy(blocks, rows, stride, taps):
    func = windows(blocks, rows, stride, taps)
    a = np.random.default_rng(0).standard_normal((blocks * rows - 1) * stride + 1).astype("f4")
    want = np.convolve(a, np.ones(taps), "same")[::stride]
    if a.size < taps:
        want = np.convolve(np.pad(a, taps), np.ones(taps), "same")[taps:-taps][::stride]
    (got,) = kernels.run(func, [a])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("blocks", "rows"), [(14, 1), (7, 2)])
def test_rows_inside_have_no_test(blocks, rows):
    branches: list[tirx.IfThenElse] = []
    body = rewrite(windows(blocks, rows, 1, 3)).body
    tvm_ffi.structural_walk(body, [(tirx.IfThenElse, branches.append)])
    inside = next(b.else_case for b in branches if b.else_case in branches).then_case
    calls: list[tvm.ir.Call] = []
    tvm_ffi.structural_walk(inside, [(tvm.ir.Call, calls.append)])
    assert not [c for c in calls if c.op.name.endswith("if_then_else")]


def test_conditions_of_two_positions_stay():
    @T.prim_func(private=True)
    def before(a: T.Buffer((24,), "float32"), b: T.Buffer((12,), "float32")):
        for block in range(3):
            for i in T.serial(4, annotations={BRANCH: 12}):
                if block * 4 + i >= 1 and block * 2 + i < 7:
                    b[block * 4 + i] = a[block * 4 + i]

    branches: list[tirx.IfThenElse] = []
    tvm_ffi.structural_walk(rewrite(before).body, [(tirx.IfThenElse, branches.append)])
    assert len(branches) == 1
