"""Operators as NumPy computes them against TVM's own, unscheduled kernels."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from compiler.quantize import reference
from tests.passes.test_sink_dequantize import module

FLOAT, INT, BYTE = ((3, 4, 5), "float32"), ((3, 4, 5), "int32"), ((3, 4, 5), "uint8")
VECTOR = ((5,), "float32")
CASES = {
    "negative": (relax.op.negative, [FLOAT]),
    "round": (relax.op.round, [FLOAT]),
    "equal": (relax.op.equal, [INT, INT]),
    "less": (relax.op.less, [FLOAT, FLOAT]),
    "where": (lambda x, y: relax.op.where(relax.op.less(x, y), x, y), [INT, INT]),
    "max": (lambda x: relax.op.max(x, [1]), [FLOAT]),
    "min of all": (lambda x: relax.op.min(x), [FLOAT]),
    "sum": (lambda x: relax.op.sum(x, [-1], keepdims=True), [INT]),
    "add": (relax.op.add, [INT, INT]),
    "subtract": (relax.op.subtract, [INT, INT]),
    "multiply": (relax.op.multiply, [INT, INT]),
    "to float": (lambda x: relax.op.astype(x, "float32"), [BYTE]),
    "to bytes": (lambda x: relax.op.astype(relax.op.clip(x, 0.0, 9.0), "uint8"), [FLOAT]),
    "softmax": (lambda x: relax.op.nn.softmax(x, 1), [FLOAT]),
    "layer_norm": (
        lambda x, g, b: relax.op.nn.layer_norm(x, g, b, [2], 1e-5),
        [FLOAT, VECTOR, VECTOR],
    ),
    "matmul": (lambda x, y: relax.op.matmul(x, y, out_dtype="int32"), [BYTE, ((5, 6), "int8")]),
    "conv2d": (
        lambda x, w: relax.op.nn.conv2d(x, w, padding=1, out_dtype="int32"),
        [((1, 2, 5, 6), "uint8"), ((3, 2, 3, 3), "int8")],
    ),
    "max_pool2d": (
        lambda x: relax.op.nn.max_pool2d(x, (2, 2), padding=1),
        [((1, 2, 5, 6), "int8")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name, monkeypatch):
    function, inputs = CASES[name]
    mod = module(lambda b, *x: b.normalize(function(*(b.normalize(v) for v in x))), *inputs)
    rng = np.random.default_rng(0)
    values = {
        f"x{i}": rng.normal(size=shape).astype(dtype)
        if dtype == "float32"
        else rng.integers(0, 120, shape, dtype)
        for i, (shape, dtype) in enumerate(inputs)
    }
    (got,) = reference.evaluate(mod, values)
    monkeypatch.setattr(reference, "EVALUATORS", {})
    (wanted,) = reference.evaluate(mod, values)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
