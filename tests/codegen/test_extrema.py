"""Maxima and minima on AArch64: NaN as NumPy has it, and one instruction each."""

import numpy as np
import pytest
from tvm import te, tirx

from compiler.target import load_target
from tests import kernels

A72 = load_target("arm_cortex_a72")
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize(
    ("operator", "reference", "instruction"),
    [(tirx.max, np.maximum, "fmax"), (tirx.min, np.minimum, "fmin")],
)
def test_special_values_match_numpy(operator, reference, instruction):
    pairs = np.array([(a, b) for a in SPECIAL for b in SPECIAL], np.float32)
    a, b = np.ascontiguousarray(pairs.T)
    x, y = (te.placeholder(a.shape, name=n) for n in "xy")
    func = te.create_prim_func([x, y, te.compute(a.shape, lambda i: operator(x[i], y[i]))])
    (result,) = kernels.run(func, [a, b], A72)
    np.testing.assert_array_equal(result, reference(a, b))
    text = kernels.assembly(func, A72)
    assert f"{instruction}\t" in text
    assert "fcmgt" not in text
