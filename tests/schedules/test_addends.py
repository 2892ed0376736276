"""Sums that start from their addend: the same results, one operation fewer."""

import numpy as np
import pytest
import tvm_ffi
from tvm import s_tir, te, tirx

import schedules
from compiler.passes.packed_ops import Window, conv2d, depthwise_conv2d
from compiler.target import load_target
from schedules.addends import start_from_addends
from tests import kernels

SHAPE = (1, 4, 5, 6, 4)
TARGET = load_target("arm_cortex_a72")
RNG = np.random.default_rng(0)


def function(epilogue, depthwise: bool = False, **shapes: tuple[int, ...]) -> tirx.PrimFunc:
    """A convolution whose result goes through ``epilogue(sum, index, *operands)``."""
    x = te.placeholder(SHAPE, name="x")
    taps = (3, 3, 4) if depthwise else (4, 1, 1, 4, 4)
    w = te.placeholder((4, *taps), name="w")
    window = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)) if depthwise else WINDOW
    y = (depthwise_conv2d if depthwise else conv2d)(x, w, window)
    operands = [te.placeholder(shape, name=name) for name, shape in shapes.items()]
    z = te.compute(y.shape, lambda *i: epilogue(y(*i), i, *operands), name="z")
    return te.create_prim_func([x, w, *operands, z])


WINDOW = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
POINT, WHOLE = (1, 4, 1, 1, 4), SHAPE


def bias(y, i, b):
    return tirx.max(y + b[0, i[1], 0, 0, i[4]], tirx.const(0.0, "float32"))


def residual(y, i, b, r):
    return y + b[0, i[1], 0, 0, i[4]] + r[i]


def both_sides(y, i, b):
    total = b[0, i[1], 0, 0, i[4]] + y
    return total * tirx.max(total, tirx.const(0.0, "float32"))


def scaled_first(y, i, b):
    return y * tirx.const(2.0, "float32") + b[0, i[1], 0, 0, i[4]]


def additions_of_loads(func: tirx.PrimFunc) -> int:
    """Float additions of two plain loads outside of the reduction."""
    found = []

    def visit(total: tirx.Add) -> None:
        loads = [str(type(side).__name__) for side in (total.a, total.b)]
        if str(total.ty.dtype) == "float32" and loads == ["TensorLoad", "TensorLoad"]:
            found.append(total)

    tvm_ffi.structural_walk(func.body, [(tirx.Add, visit)])
    return len(found)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("epilogue", "shapes", "before", "after"),
    [
        (bias, {"b": POINT}, 1, 0),
        (residual, {"b": POINT, "r": WHOLE}, 1, 1),
        (both_sides, {"b": POINT}, 2, 0),
        (scaled_first, {"b": POINT}, 0, 0),
    ],
)
def test_results_stay_and_additions_go(epilogue, shapes, before, after, depthwise):
    func = function(epilogue, depthwise, **shapes)
    scheduled, _ = schedules.apply(func, TARGET)
    # The residual's addition remains, now to a sum that holds the bias.
    assert (additions_of_loads(func), additions_of_loads(scheduled)) == (before, after)
    inputs = [
        RNG.standard_normal([int(d) for d in p.ty.shape]).astype("f4") for p in func.params[:-1]
    ]
    (wanted,) = kernels.run(func, inputs)
    (result,) = kernels.run(scheduled, inputs, TARGET)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


def test_a_sum_that_somebody_else_reads_stays():
    """An accumulator with two readers starts from zero."""
    x = te.placeholder((8, 16), name="x")
    b = te.placeholder((8,), name="b")
    k = te.reduce_axis((0, 16), name="k")
    y = te.compute((8,), lambda i: te.sum(x[i, k], axis=k), name="y")
    first = te.compute((8,), lambda i: y[i] + b[i], name="first")
    second = te.compute((8,), lambda i: y[i] * b[i], name="second")
    sch = s_tir.Schedule(te.create_prim_func([x, b, first, second]))
    sch.decompose_reduction(sch.get_sblock("y"), sch.get_loops(sch.get_sblock("y"))[0])
    func = sch.mod["main"]
    assert start_from_addends(func).same_as(func)
