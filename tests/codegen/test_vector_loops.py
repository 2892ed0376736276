"""Strip-mining of annotated loops: the code before and after, and its results."""

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T  # noqa: N812

from compiler.codegen.vector_loops import CUT, LANES, REDUCE, TASKS, VECTORIZE
from compiler.codegen.vector_loops import vectorize_annotated_loops as rewrite
from compiler.target import load_target
from tests import kernels


def script(func) -> str:
    """The body's text."""
    return func.script(show_meta=False)


def test_full_vectors_then_rests():
    @T.prim_func(private=True)
    def before(a: T.Buffer((43,), "float32"), b: T.Buffer((43,), "float32")):
        for i in T.serial(43, annotations={VECTORIZE: 16, LANES: 8}):
            b[i] = a[i] + T.float32(1)

    @T.prim_func(private=True)
    def after(a: T.Buffer((43,), "float32"), b: T.Buffer((43,), "float32")):
        for o in range(2):
            for i in T.vectorized(16):
                b[o * 16 + i] = a[o * 16 + i] + T.float32(1)
        for i in T.vectorized(8):
            b[i + 32] = a[i + 32] + T.float32(1)
        for i in T.vectorized(3):
            b[i + 40] = a[i + 40] + T.float32(1)

    tvm.ir.assert_structural_equal(rewrite(before), after)


def test_tasks_share_the_full_vectors():
    @T.prim_func(private=True)
    def before(a: T.Buffer((1003,), "float32"), b: T.Buffer((1003,), "float32")):
        for i in T.serial(1003, annotations={VECTORIZE: 8, TASKS: 4}):
            b[i] = a[i] + T.float32(1)

    @T.prim_func(private=True)
    def after(a: T.Buffer((1003,), "float32"), b: T.Buffer((1003,), "float32")):
        for t in T.parallel(4):
            for o in range(31):
                for i in T.vectorized(8):
                    b[(t * 31 + o) * 8 + i] = a[(t * 31 + o) * 8 + i] + T.float32(1)
        for i in T.vectorized(8):
            b[i + 992] = a[i + 992] + T.float32(1)
        for i in T.vectorized(3):
            b[i + 1000] = a[i + 1000] + T.float32(1)

    tvm.ir.assert_structural_equal(rewrite(before), after)


def test_conditions_of_the_position_are_cut_away():
    @T.prim_func(private=True)
    def before(a: T.Buffer((8,), "float32"), b: T.Buffer((12,), "float32")):
        for i in T.serial(12, annotations={VECTORIZE: 8}):
            b[i] = T.if_then_else(i >= 2 and i < 10, a[i - 2], T.float32(0))

    after = script(rewrite(before))
    assert "if_then_else" not in after
    assert after.count("T.vectorized(2)") == 2
    assert after.count("T.vectorized(8)") == 1


def test_cut_keeps_the_loop_serial():
    @T.prim_func(private=True)
    def before(a: T.Buffer((8,), "float32"), b: T.Buffer((9,), "float32")):
        for i in T.serial(9, annotations={CUT: 1}):
            b[i] = T.if_then_else(i < 8, a[i], T.float32(0))

    after = script(rewrite(before))
    assert "if_then_else" not in after
    assert "vectorized" not in after


def test_a_condition_on_an_outer_loop_stays():
    @T.prim_func(private=True)
    def before(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")):
        for j in range(8):
            for i in T.serial(8, annotations={VECTORIZE: 8}):
                b[j * 8 + i] = T.if_then_else(j < 3 and i < 8, a[j * 8 + i], T.float32(0))

    after = script(rewrite(before))
    assert "if_then_else(j < 3," in after


def test_independent_sums_get_vector_accumulators():
    @T.prim_func(private=True)
    def before(
        a: T.Buffer((77,), "float32"), b: T.Buffer((1,), "float32"), c: T.Buffer((1,), "float32")
    ):
        b[0] = T.float32(0)
        c[0] = T.float32(-100)
        for k in T.serial(77, annotations={REDUCE: 32, LANES: 8}):
            b[0] = b[0] + a[k] * a[k]
            c[0] = T.max(c[0], a[k])

    x = np.random.default_rng(0).uniform(-1, 1, 77).astype(np.float32)
    after = rewrite(before)
    assert script(after).count("alloc_local((32,)") == 2
    total, largest = kernels.run(before.with_attr("tirx.noalias", True), [x])
    np.testing.assert_allclose(total, [np.square(x.astype(np.float64)).sum()], rtol=1e-6)
    np.testing.assert_array_equal(largest, [x.max()])


def test_a_recurrence_is_left_alone():
    @T.prim_func(private=True)
    def before(a: T.Buffer((77,), "float32"), b: T.Buffer((1,), "float32")):
        for k in T.serial(77, annotations={REDUCE: 32}):
            b[0] = b[0] * T.float32(0.5) + a[k] * b[0]

    assert "vectorized" not in script(rewrite(before))


@pytest.mark.parametrize("extent", [1, 2, 7, 8, 9, 31, 32, 33, 100])
@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_private_buffers_are_widened_per_lane(extent, target):
    @T.prim_func(private=True)
    def columns(a: T.Buffer((5, extent), "float32"), b: T.Buffer((extent,), "float32")):
        for i in T.serial(extent, annotations={VECTORIZE: 16, LANES: 8}):
            total = T.alloc_buffer((1,), "float32", scope="local")
            total[0] = T.float32(0)
            for k in range(5):
                total[0] = total[0] + a[k, i]
            b[i] = total[0]

    x = np.random.default_rng(0).uniform(-1, 1, (5, extent)).astype(np.float32)
    (got,) = kernels.run(columns, [x], load_target(target))
    np.testing.assert_allclose(got, x.sum(0), rtol=1e-5, atol=1e-6)
