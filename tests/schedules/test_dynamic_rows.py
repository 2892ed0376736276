"""Rows quantised by their own range, against NumPy in float64."""

import numpy as np
import pytest
from tvm import te

import schedules
from compiler.quantize.dynamic import ATTRIBUTE, quantize_rows, quantize_rows64
from compiler.target import load_target
from tests.kernels import run

SHAPES = [(1, 7, 384), (5, 16), (2, 3, 33), (3, 1), (1, 1, 61)]


def function(shape, dtype):
    x = te.placeholder(shape, "float32", name="x")
    func = te.create_prim_func([x, *quantize_rows(x, dtype)], index_dtype_override="int64")
    return func.with_attr(ATTRIBUTE, dtype)


def rows(shape, seed=0):
    """Of different ranges: around zero, one sign, all zero, with an outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * rng.uniform(0.01, 30, (*shape[:-1], 1))
    flat = x.reshape(-1, shape[-1])
    kinds = [lambda r: r, abs, lambda r: -abs(r) - 1, lambda r: 0 * r, lambda r: r + 500 * (r > 2)]
    for i, row in enumerate(flat):
        row[:] = kinds[i % len(kinds)](row)
    return flat.reshape(shape).astype("float32")


@pytest.mark.parametrize(
    ("target", "dtype"), [("host", "uint8"), ("x86_64", "uint8"), ("arm_cortex_a72", "int8")]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape, target, dtype):
    machine = load_target(target)
    scheduled, report = schedules.apply(function(shape, dtype), machine)
    assert report["template"] == "dynamic_rows"
    assert "serial" not in report
    x = rows(shape)
    got, scale, shift = run(scheduled, [x], machine)
    wanted, exact_scale, exact_shift = quantize_rows64(x.astype("float64"), dtype)
    np.testing.assert_allclose(scale, exact_scale, rtol=1e-6)
    np.testing.assert_allclose(shift, exact_shift, rtol=1e-6)
    # Half a step, and half another where an end of the range lies between two.
    real = scale.astype("float64") * got[..., : shape[-1]] + shift
    assert (np.abs(real - x) <= 1.001 * exact_scale).all()
    # What float32 rounds to the other side of the middle between two steps.
    off = np.abs(got.astype(int) - wanted)
    assert off.max() <= 1
    assert np.count_nonzero(off) <= got.size // 500
