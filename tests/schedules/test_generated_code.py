"""The assembly of hot loops: vectors, no calls of the C library, no scalar float arithmetic."""

import numpy as np
import pytest
from tvm import relax

from compiler.target import load_target
from tests import kernels
from tests.schedules.graphs import scheduled_function
from tests.schedules.inner_loop_cases import product

op, nn = relax.op, relax.op.nn


def zeros(*shape: int) -> np.ndarray:
    """An input whose values do not matter."""
    return np.zeros(shape, np.float32)


FUNCTIONS = {
    "gelu": (nn.gelu, zeros(128, 1536)),
    "silu": (nn.silu, zeros(1, 32, 56, 56)),
    "bias": (lambda a, b: nn.relu(op.add(a, b)), zeros(1, 64, 28, 28), zeros(1, 64, 1, 1)),
    "softmax": (nn.softmax, zeros(12, 128, 128)),
    "softmax_channels": (lambda a: nn.softmax(a, 1), zeros(1, 21, 64, 64)),
    "layer_norm": (
        lambda a, g, b: nn.layer_norm(a, g, b, axes=[-1]),
        *(zeros(128, 384), zeros(384), zeros(384)),
    ),
    "mean": (lambda a: op.mean(a, [2, 3]), zeros(1, 1280, 7, 7)),
    "max_rows": (lambda a: op.max(a, [0]), zeros(128, 384)),
    "max_pool": (lambda a: nn.max_pool2d(a, (3, 3), (1, 1), (1, 1)), zeros(1, 64, 56, 56)),
    "strided_pool": (lambda a: nn.max_pool2d(a, (3, 3), (2, 2), (1, 1)), zeros(1, 64, 56, 56)),
    "packed_pool": (
        lambda a: nn.max_pool2d(a, (3, 3), (2, 2), (1, 1), layout="NCHW8c"),
        zeros(1, 8, 56, 56, 8),
    ),
    "concat": (lambda a, b: op.concat([a, b], 1), zeros(1, 16, 28, 28), zeros(1, 24, 28, 28)),
}
MOVES = {"concat"}


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72", "riscv_spacemit_x60"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_hot_loops_are_vector_code(name, target):
    target = load_target(target)
    build, *inputs = FUNCTIONS[name]
    scheduled, report = scheduled_function(build, target, *inputs)
    assert "serial" not in report
    text = kernels.assembly(scheduled, target)
    assert kernels.libm_calls(text) == []
    count = kernels.vector_lines(text, target)
    if name in MOVES:
        count += kernels.vector_moves(text, target)
    assert count >= 2
    assert kernels.scalar_lines(text, target) <= count


@pytest.mark.parametrize("name", FUNCTIONS)
def test_large_functions_run_in_parallel(name):
    build, *inputs = FUNCTIONS[name]
    scheduled, report = scheduled_function(build, load_target("arm_cortex_a72"), *inputs)
    assert report["parallel"] == "yes"
    text = kernels.assembly(scheduled, load_target("arm_cortex_a72"))
    assert "__TVMBackendParallelLaunch" in text


def test_small_functions_stay_on_the_caller():
    scheduled, report = scheduled_function(nn.gelu, load_target("arm_cortex_a72"), zeros(8, 64))
    assert report["parallel"] == "no"
    assert "Parallel" not in kernels.assembly(scheduled, load_target("arm_cortex_a72"))


def test_only_the_last_vector_of_ragged_columns_is_scalar():
    """29 columns in tiles of two vectors of 4: the last tile is a whole vector and one column."""
    case = product((4, 33, 16), (4, 16, 29), constant=False)
    (text,) = case.assemblies(load_target("arm_cortex_a7"))
    rows = 3
    assert text.count("vmovgt.f32") == rows  # relu of the last column
