"""Winograd's convolution against sums in float64: sizes, borders, threads, error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import te, tirx

import schedules
from compiler.passes import winograd_ops
from compiler.passes.packed_ops import Window
from compiler.passes.packed_values import preferred_block
from compiler.target import Target, load_target
from tests import kernels
from tests.schedules.inner_loops import inner_loops

# The bound's factor for m, see winograd_ops.
GROWTH = {2: 64, 4: 620}


@dataclass(frozen=True)
class Case:
    """Input [n, ic, h, w], weights [oc, ic, 3, 3], pads (top, left, bottom, right)."""

    ic: int
    oc: int
    h: int
    w: int
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    n: int = 1


def function(case: Case, m: int, c: int) -> tirx.PrimFunc:
    """relu(convolution + bias + residual), packed in blocks of c."""
    ic, oc = -(-case.ic // c), -(-case.oc // c)
    ci = c if case.ic % c == 0 else 1
    window = Window((3, 3), (1, 1), case.pads, (1, 1))
    x = te.placeholder((case.n, ic, case.h, case.w, c), name="x")
    weight = te.placeholder(((m + 2) ** 2, oc, case.ic // ci, ci, c), name="weight")
    bias = te.placeholder((1, oc, 1, 1, c), name="bias")
    y = winograd_ops.conv2d(x, weight, window, m)
    residual = te.placeholder(y.shape, name="residual")
    added = te.compute(y.shape, lambda *i: y(*i) + bias(0, i[1], 0, 0, i[4]) + residual(*i))
    result = te.compute(y.shape, lambda *i: tirx.max(added(*i), 0.0), name="relu")
    return te.create_prim_func([x, weight, bias, residual, result])


def pack(x: np.ndarray, c: int, fill: float = 0.0) -> np.ndarray:
    """[N, C, H, W] -> [N, ceil(C/c), H, W, c]."""
    n, channels, h, w = x.shape
    x = np.pad(x, ((0, 0), (0, -channels % c), (0, 0), (0, 0)), constant_values=fill)
    return np.ascontiguousarray(x.reshape(n, -1, c, h, w).transpose(0, 1, 3, 4, 2))


def unpack(x: np.ndarray, channels: int) -> np.ndarray:
    n, blocks, h, w, c = x.shape
    return x.transpose(0, 1, 4, 2, 3).reshape(n, blocks * c, h, w)[:, :channels]


def reference(x: np.ndarray, weight: np.ndarray, pads: tuple[int, ...]) -> np.ndarray:
    """The convolution in float64."""
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    h, w = x.shape[2] - 2, x.shape[3] - 2
    return sum(
        np.einsum("kc,nchw->nkhw", weight[:, :, i, j].astype(np.float64), part, optimize=True)
        for i in range(3)
        for j in range(3)
        for part in [x[:, :, i : i + h, j : j + w]]
    )


def data(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, weights and bias whose channels differ in scale."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-2, 2, (1, case.ic, 1, 1)))
    x = rng.standard_normal((case.n, case.ic, case.h, case.w)) * scale
    weight = rng.standard_normal((case.oc, case.ic, 3, 3)) / (3 * math.sqrt(case.ic)) / scale
    return x.astype("f4"), weight.astype("f4"), rng.standard_normal(case.oc).astype("f4")


def check(case: Case, m: int, target: Target) -> None:
    """Assert the bound of each error, and that they are small on average."""
    got, want, bound = run(case, m, target)
    assert np.abs(got - want).max() <= bound
    assert np.sqrt(np.mean((got - want) ** 2)) <= bound / 50


def run(case: Case, m: int, target: Target, threads: int = 3):
    """The kernel's result, the wanted one, and the bound of their difference."""
    c = preferred_block(target)
    x, weight, bias = data(case)
    exact = reference(x, weight, case.pads)
    residual = np.random.default_rng(1).standard_normal(exact.shape).astype("f4")
    scheduled, report = schedules.apply(function(case, m, c), target)
    assert (report["template"], report["variant"]) == ("winograd", f"F({m}x{m}, 3x3)")
    packed = [
        pack(x, c, fill=np.nan),  # channels beyond the last one are never read
        winograd_ops.pack_weight(weight, m, c),
        pack(bias.reshape(1, -1, 1, 1), c),
        pack(residual, c),
    ]
    (got,) = kernels.run(scheduled, packed, target, threads)
    want = np.maximum(exact + bias.reshape(1, -1, 1, 1) + residual, 0)
    largest = np.einsum(
        "c,kc->k", np.abs(x).max((0, 2, 3)).astype(float), np.abs(weight).max((2, 3)).astype(float)
    )
    bound = 2.0**-24 * ((case.ic + 24) * GROWTH[m] * largest.max() + 4 * np.abs(want).max())
    return unpack(got, case.oc), want, bound


SIZES = [
    Case(1, 1, 5, 5),
    Case(3, 7, 1, 13),
    Case(7, 17, 4, 4, (0, 0, 0, 0)),
    Case(17, 33, 7, 7),
    Case(33, 8, 13, 6, (0, 2, 1, 0)),
    Case(16, 24, 9, 27, (2, 1, 0, 1)),
    Case(8, 56, 14, 14, n=2),
    Case(64, 64, 28, 30),
]


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_ragged_sizes(case, m):
    check(case, m, kernels.host())


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("ic", [17, 32])
@pytest.mark.parametrize(
    "target",
    [
        "x86_64",
        "x86_64_v3",
        "arm_cortex_a72",
        "arm_cortex_a7",
        "riscv64",
        "riscv_spacemit_x60",
        "riscv_sifive_x280",
    ],
)
def test_targets(target, ic, m):
    check(Case(ic, 24, 9, 10), m, load_target(target))


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72", "riscv_spacemit_x60"])
def test_products_stay_in_registers(target):
    target = load_target(target)
    func = function(Case(64, 64, 28, 28), 4, preferred_block(target))
    scheduled, _ = schedules.apply(func, target)
    loops = inner_loops(kernels.assembly(scheduled, target), target.arch)
    products = max(loops, key=lambda loop: loop.share)
    assert products.share >= 0.5
    assert not products.stack


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=st.builds(
        Case,
        ic=st.integers(1, 40),
        oc=st.integers(1, 40),
        h=st.integers(3, 20),
        w=st.integers(3, 20),
        pads=st.tuples(*[st.integers(0, 2)] * 4),
        n=st.integers(1, 2),
    ),
    m=st.sampled_from([2, 4]),
)
def test_random_sizes(case, m):
    check(case, m, kernels.host())


@pytest.mark.parametrize("m", [2, 4])
def test_deep_sums_are_as_good_as_direct_ones(m):
    """512 channels: the error is that of adding the products one after the other in float32."""
    case = Case(512, 16, 8, 8)
    x, weight, _ = data(case)
    target = kernels.host()
    got, want, _ = run(case, m, target)
    direct = np.zeros((1, case.oc, 8, 8), "f4")
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for channel in range(case.ic):
        for i in range(3):
            for j in range(3):
                taps = weight[:, channel, i, j].reshape(1, -1, 1, 1)
                direct += taps * padded[:, channel, None, i : i + 8, j : j + 8]
    error = float(np.sqrt(np.mean((got - want) ** 2)))
    of_direct = float(np.sqrt(np.mean((direct - reference(x, weight, case.pads)) ** 2)))
    assert error <= 2 * of_direct


@pytest.mark.parametrize(
    ("case", "shared"), [(Case(16, 32, 64, 60), "blocks"), (Case(64, 64, 7, 7), "channels")]
)
def test_the_number_of_threads_changes_no_bit(case, shared):
    target = replace(kernels.host(), cores=4)
    _, report = schedules.apply(function(case, 4, preferred_block(target)), target)
    assert f"shared by {shared}" in report["decision"]
    one, two, five = (run(case, 4, target, threads)[0] for threads in (1, 2, 5))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, five)


def test_matrices_of_weights_are_rounded_once():
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype("f4")
    g = winograd_ops.weight_matrix(4)
    exact = np.einsum("ai,ocij,bj->aboc", g, weight.astype(np.float64), g).reshape(36, 2, 3)
    np.testing.assert_array_equal(winograd_ops.transform_weight(weight, 4), exact.astype("f4"))


@pytest.mark.parametrize("m", [2, 4])
def test_weight_matrix_evaluates_polynomials(m):
    """All rows but the last, scaled, are the taps' polynomial at a point; the last is its lead."""
    g = winograd_ops.weight_matrix(m)
    points = g[:-1, 1] / g[:-1, 0]
    np.testing.assert_allclose(g[:-1, 2], g[:-1, 0] * points**2, atol=1e-15)
    assert len({round(p, 9) for p in points}) == m + 1
    np.testing.assert_array_equal(g[-1], [0, 0, 1])
