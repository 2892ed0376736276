"""Products of few rows with weights in groups, on every kind of CPU."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te

import schedules
from compiler.passes import grouped_ops
from compiler.passes.packed_values import preferred_block
from compiler.quantize.groups import Groups
from compiler.target import load_target
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests import kernels


def weights(rng, depth, columns, group, bits, zeros):
    groups = -(-depth // group)
    limits = (0, 16) if bits == 4 else (-127, 128)
    middle = 8 if bits == 4 else 0
    zero = rng.integers(*limits, (groups, columns)) if zeros else np.full((groups, columns), middle)
    scale = rng.uniform(-0.1, 0.1, (groups, columns)).astype("float32")
    integers = rng.integers(*limits, (depth, columns)).astype("int8")
    return Groups(integers, scale, zero.astype("int8"), group, bits)


def run(product, rows, groups, target):
    """Result and reference of a product with random rows, and the schedule's report."""
    rng = np.random.default_rng(rows)
    a = rng.standard_normal((*rows, len(groups.integers))).astype("float32")
    arrays = [a, *grouped_ops.pack(groups, preferred_block(target))]
    tensors = [te.placeholder(x.shape, str(x.dtype)) for x in arrays]
    zero = tensors[3] if len(tensors) > 3 else None
    result = product(*tensors[:3], zero, groups)
    known = list(range(1, len(arrays)))
    func = te.create_prim_func([*tensors, result]).with_attr(CONSTANT_INPUTS, known)
    scheduled, report = schedules.apply(func, target)
    for position, wanted in rearrangements(scheduled).items():
        arrays[position] = wanted.apply(arrays[position])
    (got,) = kernels.run(scheduled, arrays, target)
    return got, a @ groups.dequantize64(), report


@pytest.mark.parametrize(
    ("target", "rows", "depth", "columns", "group", "bits", "zeros"),
    [
        ("host", (1,), 256, 96, 32, 4, False),
        ("host", (2, 3), 200, 100, 32, 4, True),
        ("host", (8,), 136, 40, 128, 8, True),
        ("x86_64", (1,), 72, 36, 32, 4, True),
        ("arm_cortex_a72", (1,), 200, 28, 32, 4, False),
        ("arm_cortex_a7", (2,), 64, 20, 32, 4, True),
        ("riscv64", (1,), 72, 12, 32, 4, False),
        ("riscv_spacemit_x60", (3,), 200, 40, 128, 4, True),
        ("riscv_spacemit_x60", (1,), 96, 40, 32, 8, False),
    ],
)
def test_few_rows(target, rows, depth, columns, group, bits, zeros):
    made = weights(np.random.default_rng(depth), depth, columns, group, bits, zeros)
    got, want, report = run(grouped_ops.matmul, rows, made, load_target(target))
    assert report["template"] == "matmul_grouped"
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(("bits", "zeros"), [(4, False), (8, True)])
def test_many_rows(bits, zeros):
    made = weights(np.random.default_rng(0), 200, 52, 32, bits, zeros)
    got, want, report = run(grouped_ops.wide_matmul, (13,), made, kernels.host())
    assert report["template"] == "matmul"
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
