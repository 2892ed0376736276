"""Depthwise convolutions read the picture itself, at its borders too."""

import numpy as np
import pytest
from tvm import te

import schedules
from compiler.codegen.lower import lower
from compiler.passes.packed_ops import Window, depthwise_conv2d
from compiler.target import load_target
from tests import kernels

RNG = np.random.default_rng(0)


def function(blocks: int, height: int, width: int, window: Window):
    x = te.placeholder((1, blocks, height, width, 4), name="x")
    w = te.placeholder((blocks, *window.kernel, 4), name="w")
    return te.create_prim_func([x, w, depthwise_conv2d(x, w, window)])


WINDOWS = {
    "same": (5, 13, Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    "wide": (1, 17, Window((1, 7), (1, 1), (0, 3, 0, 3), (1, 1))),
    "strided": (33, 7, Window((3, 3), (2, 2), (0, 1, 1, 0), (1, 1))),
    "dilated": (9, 14, Window((5, 5), (1, 2), (4, 4, 4, 4), (2, 2))),
    "point": (1, 1, Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    "none": (8, 8, Window((3, 3), (1, 1), (0, 0, 0, 0), (1, 1))),
    "large": (9, 9, Window((7, 7), (1, 1), (3, 3, 3, 3), (1, 1))),
}


TARGETS = ["x86_64_v3", "arm_cortex_a72", "arm_cortex_a7", "riscv64", "riscv_spacemit_x60"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", WINDOWS)
def test_borders_match_the_unscheduled_function(name, target):
    height, width, window = WINDOWS[name]
    func = function(8, height, width, window)
    inputs = [
        RNG.standard_normal([int(d) for d in p.ty.shape]).astype("f4") for p in func.params[:2]
    ]
    target = load_target(target)
    scheduled, _ = schedules.apply(func, target)
    (wanted,) = kernels.run(func, inputs)
    (result,) = kernels.run(scheduled, inputs, target)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_is_copied(stride, target):
    target = load_target(target)
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1), (1, 1))
    scheduled, _ = schedules.apply(function(16, 56, 56, window), target)
    lowered = lower({"kernel": scheduled}, target)["kernel"]
    assert lowered.workspaces == ()
    assert lowered.scratch == 0
