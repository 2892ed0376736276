"""Scales and shifts disappear into weights."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from compiler.passes.fold_batch_norm import fold_batch_norm
from compiler.passes.packed_values import constant_of
from tests.passes.test_packing import conv, module, operators, weight


def normalized(b, x, *shape: int) -> relax.Expr:
    return b.emit(relax.op.add(b.emit(relax.op.multiply(x, weight(*shape))), weight(*shape)))


def constants(mod) -> list[np.ndarray]:
    values = []
    for binding in mod["main"].body.blocks[0].bindings:
        if isinstance(binding.value, relax.Call):
            found = [constant_of(a) for a in binding.value.args]
            values += [v for v in found if v is not None]
    return values


def test_normalisation_after_a_convolution_joins_weights_and_bias():
    def build(b, x):
        y = b.emit(relax.op.add(b.emit(conv(x, 6, 3, 3, 3)), weight(1, 6, 1, 1)))
        return relax.op.nn.relu(normalized(b, normalized(b, y, 6, 1, 1), 1, 6, 1, 1))

    folded = fold_batch_norm(module(build, (1, 3, 8, 8)))
    assert operators(folded) == ["nn.conv2d", "add", "nn.relu"]
    w, c = (constant_of(weight(*s)).astype("f8") for s in ((6, 3, 3, 3), (6, 1, 1)))
    weights, shift = constants(folded)
    np.testing.assert_allclose(weights, w * (c * c)[..., None], rtol=1e-6)
    np.testing.assert_allclose(shift, (((c * c) + c) * c + c)[None], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_scale_their_groups(groups):
    def build(b, x):
        y = relax.op.nn.conv2d_transpose(
            x, weight(4, 6 // groups, 2, 2), groups=groups, kernel_layout="IOHW"
        )
        return relax.op.multiply(b.emit(y), weight(6, 1, 1))

    folded = fold_batch_norm(module(build, (1, 4, 5, 5)))
    assert operators(folded) == ["nn.conv2d_transpose"]
    w = constant_of(weight(4, 6 // groups, 2, 2)).astype("f8")
    c = constant_of(weight(6, 1, 1)).astype("f8").reshape(groups, -1)
    for channel in range(4):
        expected = w[channel] * c[channel // (4 // groups)].reshape(-1, 1, 1)
        np.testing.assert_allclose(constants(folded)[0][channel], expected, rtol=1e-6)


def test_products_scale_their_columns():
    def build(b, x):
        y = b.emit(relax.op.matmul(x, weight(5, 6)))
        return relax.op.subtract(weight(6), b.emit(relax.op.multiply(y, weight(1))))

    folded = fold_batch_norm(module(build, (2, 3, 5)))
    assert operators(folded) == ["matmul", "add"]
    weights, shift = constants(folded)
    np.testing.assert_allclose(
        weights, -constant_of(weight(5, 6)) * constant_of(weight(1)), rtol=1e-6
    )
    np.testing.assert_array_equal(shift.ravel(), constant_of(weight(6)))


def test_normalisation_of_anything_else_is_one_multiplication_and_one_addition():
    def build(b, x):
        return relax.op.nn.relu(normalized(b, normalized(b, x, 6, 1, 1), 6, 1, 1))

    assert operators(fold_batch_norm(module(build, (1, 6, 4, 4)))) == ["multiply", "add", "nn.relu"]


def test_a_result_that_others_read_keeps_its_weights():
    def build(b, x):
        y = b.emit(conv(x, 6, 3, 1, 1))
        return relax.op.nn.relu(b.emit(relax.op.add(y, normalized(b, y, 6, 1, 1))))

    folded = fold_batch_norm(module(build, (1, 3, 4, 4)))
    assert operators(folded) == ["nn.conv2d", "multiply", "add", "add", "nn.relu"]
    np.testing.assert_array_equal(constants(folded)[0], constant_of(weight(6, 3, 1, 1)))


def test_shift_before_scale_keeps_its_rounding():
    """(x - 1e6) * 100 and 100 x - 1e8 differ by far for x close to 1e6."""

    def build(b, x):
        shifted = b.emit(relax.op.subtract(x, weight(6, 1, 1)))
        return relax.op.multiply(shifted, weight(6, 1, 1))

    assert operators(fold_batch_norm(module(build, (1, 6, 4, 4)))) == ["subtract", "multiply"]


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 6, 1, 1), (1, 6, 4, 1)])
def test_constants_along_other_axes_stay(shape):
    def build(b, x):
        return relax.op.multiply(b.emit(conv(x, 6, 3, 1, 1)), weight(*shape))

    assert operators(fold_batch_norm(module(build, (2, 3, 4, 4)))) == ["nn.conv2d", "multiply"]
