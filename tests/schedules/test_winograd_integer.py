"""Winograd's convolution of bytes: bit for bit a sum of products."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

import schedules
from compiler.passes import integer_ops, winograd_ops
from compiler.passes.channel_sums import MAX_INT32
from compiler.passes.dot_layout import dot_layouts
from compiler.passes.packed_ops import Window
from compiler.passes.winograd import largest_sum, pays_in_integers
from compiler.target import load_target
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests import kernels
from tests.schedules.test_winograd import pack, reference, unpack

X60 = load_target("riscv_spacemit_x60")
LAYOUT = dot_layouts(X60)[0]
SAME = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
BT = np.array([[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
AT = np.array([[1, 1, 1, 0], [0, 1, -1, 1]])


@dataclass(frozen=True)
class Case:
    """Input [1, ic, h, w], weights [oc, ic, 3, 3], pads (top, left, bottom, right)."""

    ic: int
    oc: int
    h: int
    w: int
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("target", "case"),
    [
        ("riscv_spacemit_x60", Case(16, 16, 5, 6)),
        ("riscv_spacemit_x60", Case(20, 72, 9, 11, (0, 1, 2, 1))),
        ("riscv_spacemit_x60", Case(48, 40, 7, 26, (0, 0, 0, 0))),
        ("riscv_sifive_x280", Case(33, 70, 8, 7)),
    ],
    ids=str,
)
def test_sums_are_those_of_a_direct_convolution(target, case):
    target = load_target(target)
    zero, rng = -5, np.random.default_rng(0)
    c = dot_layouts(target)[0].block
    x = rng.integers(-128, 128, (1, case.ic, case.h, case.w)).astype("int8")
    weight = rng.integers(-127, 128, (case.oc, case.ic, 3, 3)).astype("int8")
    x[0, :, 0], x[0, :, -1], weight[0], weight[-1] = -128, 127, 127, -127
    bias = 4 * rng.integers(-3000, 3000, case.oc)
    packed = [
        pack(x, c, fill=77),
        winograd_ops.pack_weight(weight, 2, c),
        pack(bias.reshape(1, -1, 1, 1), c).astype("int32"),
    ]
    func = _function(packed, Window((3, 3), (1, 1), case.pads, (1, 1)), zero)
    scheduled, report = schedules.apply(func.with_attr(CONSTANT_INPUTS, [1, 2]), target)
    assert (report["template"], report["intrinsic"]) == ("winograd_integer", "rvv_vwmacc")
    for position, wanted in rearrangements(scheduled).items():
        packed[position] = wanted.apply(packed[position])
    (got,) = kernels.run(scheduled, packed, target)
    # what pads x is zero once x is shifted by it
    want = reference(x.astype("int64") - zero, weight, case.pads)
    want = want + zero * weight.sum((1, 2, 3), dtype="int64").reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(unpack(got, case.oc), 4 * want + bias.reshape(1, -1, 1, 1))


def _function(inputs: list[np.ndarray], window: Window, zero: int):
    tensors = [te.placeholder(a.shape, str(a.dtype)) for a in inputs]
    sums = winograd_ops.conv2d(tensors[0], tensors[1], window, 2, zero)
    return te.create_prim_func([*tensors, integer_ops.biased(sums, tensors[2])])


def test_weights_come_in_groups_and_products_stay_in_registers():
    """Seven in ten instructions of hot loops multiply, and no vector goes through the stack."""
    weight = np.ones((64, 64, 3, 3), "int8")
    packed = [np.zeros((1, 4, 28, 28, 16), "int8"), winograd_ops.pack_weight(weight, 2, 16)]
    packed.append(np.zeros((1, 4, 1, 1, 16), "int32"))
    func = _function(packed, SAME, 0).with_attr(CONSTANT_INPUTS, [1, 2])
    text = kernels.assembly(schedules.apply(func, X60)[0], X60)
    pieces = re.split(r"^\.L\w+:|^\tb\w+.*", text, flags=re.M)
    loops = [re.findall(r"^\t([a-z][\w.]*)", p, re.M) for p in pieces if "vwmacc.vx" in p]
    assert max(map(len, loops)) > 100
    for loop in loops:
        assert loop.count("vwmacc.vx") >= 0.7 * len(loop)
        assert not [name for name in loop if name.startswith("vs") and name != "vsetvli"]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_number_exceeds_the_bound(data):
    """Even of inputs and weights that are all extremes; and transforms are exact."""
    uint8 = data.draw(st.booleans())
    low, high = (0, 255) if uint8 else (-128, 127)
    bits = st.integers(0, 2**32 - 1)
    rng = np.random.default_rng(data.draw(bits))
    ic, oc = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    d = rng.choice([low, high, 3], (ic, 4, 4))
    weight = rng.choice([-127, 127, 5], (oc, ic, 3, 3)).astype("int8")
    bias = rng.integers(-9999, 9999, oc)
    u = winograd_ops.transform_weight(weight, 2).astype("int64").reshape(4, 4, oc, ic)
    v = np.einsum("ai,cij,bj->abc", BT, d, BT)
    assert np.abs(v).max() < 2**15
    products = np.einsum("aboc,abc->abo", u, v)
    half = np.einsum("ai,ibo->abo", AT, products)
    y = np.einsum("abo,jb->ajo", half, AT) + 4 * bias
    direct = [
        [np.einsum("oijk,ijk->o", weight, d[:, a : a + 3, b : b + 3]) for b in (0, 1)]
        for a in (0, 1)
    ]
    np.testing.assert_array_equal(y, 4 * (np.array(direct, "int64") + bias))
    bound = largest_sum(weight, "uint8" if uint8 else "int8", bias)
    assert max(np.abs(a).max() for a in (products, half, y)) <= bound


@pytest.mark.parametrize(
    ("channels", "value", "bias", "taken"),
    [(64, 127, 0, True), (1024, 127, 0, False), (1024, 20, 0, True), (64, 1, 2**29, False)],
)
def test_sums_that_could_leave_int32_are_direct(channels, value, bias, taken):
    weight = np.full((64, channels, 3, 3), value, "int8")
    assert (largest_sum(weight, "int8", np.full(64, bias)) <= MAX_INT32) == taken
    shape = (1, channels, 28, 28)
    assert pays_in_integers(X60, LAYOUT, SAME, shape, weight, np.full(64, bias)) == taken


@pytest.mark.parametrize(
    ("target", "channels", "size", "strides"),
    [
        ("riscv_spacemit_x60", 16, 2, (1, 1)),  # transforms would cost more than they save
        ("riscv_spacemit_x60", 64, 28, (2, 2)),
        ("arm_cortex_a72", 64, 28, (1, 1)),
    ],
)
def test_others_are_direct(target, channels, size, strides):
    target = load_target(target)
    weight = np.ones((16, channels, 3, 3), "int8")
    window = Window((3, 3), strides, (1, 1, 1, 1), (1, 1))
    layout, shape = dot_layouts(target)[0], (1, channels, size, size)
    assert not pays_in_integers(target, layout, window, shape, weight, np.zeros(16))
