"""Explicit pads disappear into windows."""

from __future__ import annotations

import pytest
from tvm import relax

from compiler.passes.fold_pads import fold_pads
from tests.passes.test_packing import conv, module, operators, weight


def padded(b, x, widths, value: float = 0.0, mode: str = "constant") -> relax.Expr:
    return b.emit(relax.op.nn.pad(x, widths, mode, value))


def last_call(mod) -> relax.Call:
    calls = [b.value for b in mod["main"].body.blocks[0].bindings]
    return [c for c in calls if isinstance(c, relax.Call)][-1]


def test_pads_are_added_to_those_of_the_convolution():
    def build(b, x):
        y = padded(b, x, [0, 0, 0, 0, 1, 2, 3, 4])
        return conv(y, 4, 3, 3, 3, padding=(1, 0, 0, 5), strides=2)

    before = module(build, (1, 3, 8, 8))
    after = fold_pads(before)
    assert [int(p) for p in last_call(after).attrs.padding] == [2, 3, 2, 9]
    assert last_call(after).args[0].same_as(after["main"].params[0])
    assert after["main"].ret_ty == before["main"].ret_ty


def test_rows_are_padded_on_both_sides():
    def build(b, x):
        return relax.op.nn.conv1d(padded(b, x, [0, 0, 0, 0, 2, 1]), weight(4, 3, 3))

    assert [int(p) for p in last_call(fold_pads(module(build, (1, 3, 8)))).attrs.padding] == [2, 1]


def test_averages_count_the_pads():
    def build(b, x):
        return relax.op.nn.avg_pool2d(padded(b, x, [0, 0, 0, 0, 1, 1, 1, 1]), (3, 3))

    pool = last_call(fold_pads(module(build, (1, 3, 8, 8)))).attrs
    assert [int(p) for p in pool.padding] == [1] * 4
    assert pool.count_include_pad


@pytest.mark.parametrize(
    ("widths", "value", "mode"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], 1.0, "constant"),
        ([0, 0, 0, 0, 1, 1, 1, 1], 0.0, "reflect"),
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.0, "constant"),
    ],
)
def test_other_pads_stay(widths, value, mode):
    def build(b, x):
        return conv(padded(b, x, widths, value, mode), 4, 3 + widths[2], 3, 3)

    assert operators(fold_pads(module(build, (1, 3, 8, 8)))) == ["nn.pad", "nn.conv2d"]


@pytest.mark.parametrize("attributes", [{"ceil_mode": True}, {"padding": 1}])
def test_averages_that_do_not_count_everything_keep_their_pads(attributes):
    def build(b, x):
        y = padded(b, x, [0, 0, 0, 0, 1, 1, 1, 1])
        return relax.op.nn.avg_pool2d(y, (3, 3), (2, 2), **attributes)

    assert operators(fold_pads(module(build, (1, 3, 8, 8)))) == ["nn.pad", "nn.avg_pool2d"]
