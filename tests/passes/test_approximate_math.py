"""Approximations against NumPy in float64: errors in ULP, edges, and the generated code."""

import math
import re

import numpy as np
import pytest
import tvm_ffi
from tvm import s_tir, te, tirx

from compiler.passes.approximate_math import approximate_math
from compiler.target import load_target
from tests import kernels

BOUNDS = {  # largest error in ULP, as the docstrings state
    "exp": 2,
    "exp2": 2,
    "exp10": 2,
    "sigmoid": 4,
    "sinh": 4,
    "cosh": 3,
    "log": 2,
    "log2": 3,
    "log10": 3,
    "log1p": 4,
    "asinh": 5,
    "acosh": 5,
    "atanh": 6,
    "tanh": 6,
    "erf": 6,
    "sin": 2,
    "cos": 2,
    "tan": 4,
    "atan": 3,
    "asin": 3,
    "acos": 3,
}
REFERENCES = {
    "exp10": lambda x: np.power(10.0, x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "atan": np.arctan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
}
EDGES = np.array(
    [
        *(0, math.inf, math.nan, 1e-45, 1.1754944e-38, 1e-20, 0.5, 1, 2, 9.02, 10, 38.6, 88.72),
        *(88.73, 87, 87.4, 104, 127.99, 128, 125.6, 1e9, 3.4e38),
    ],
    np.float32,
)
COUNT = 1 << 16
# Results below this may be flushed to zero (2**-125.5).
FLUSHED = 1.7e-38


def vectorized(count: int, compute, arguments: int = 1) -> tirx.PrimFunc:
    """``out[i] = compute(in0[i], ...)`` over count floats in vectors of 8."""
    inputs = [te.placeholder((count,), name=f"in{k}") for k in range(arguments)]
    result = te.compute((count,), lambda i: compute(*(x[i] for x in inputs)), name="out")
    schedule = s_tir.Schedule(te.create_prim_func([*inputs, result]))
    (loop,) = schedule.get_loops(schedule.get_sblock("out"))
    schedule.vectorize(schedule.split(loop, [None, 8])[1])
    return schedule.mod["main"]


def samples(count: int = COUNT) -> np.ndarray:
    """Every exponent and sign with strided mantissas, the usual ranges densely, the edges."""
    strided = np.arange(0, 1 << 32, (1 << 33) // count, dtype=np.uint64).astype(np.uint32)
    edges = np.concatenate([EDGES, -EDGES])
    rest = count - strided.size - edges.size
    usual = np.concatenate([np.linspace(-20, 20, rest // 2), np.linspace(-1.1, 1.1, rest // 2)])
    assert strided.size + edges.size + usual.size == count
    return np.concatenate([strided.view(np.float32), edges, usual.astype(np.float32)])


def ulp_errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units of the last place; inf where infinities, NaNs or signs of inf differ."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        errors = np.abs(got.astype(np.float64) - exact) / spacing
    finite = np.isfinite(rounded) & np.isfinite(got)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    errors = np.where(finite, errors, np.where(same, 0.0, math.inf))
    flushed = finite & (np.abs(exact) < FLUSHED) & (np.abs(got) < FLUSHED)
    return np.where(flushed, 0.0, errors)


def check(name: str, x: np.ndarray, got: np.ndarray) -> None:
    """Assert the stated bound over all samples."""
    reference = REFERENCES.get(name, getattr(np, name, None))
    with np.errstate(all="ignore"):
        errors = ulp_errors(got, reference(x.astype(np.float64)))
    if name in {"sin", "cos", "tan"}:
        errors[np.isfinite(x) & (np.abs(x) > 2.0**27)] = 0
    worst = int(errors.argmax())
    assert errors[worst] <= BOUNDS[name], f"{name}({x[worst]!r}) = {got[worst]!r}"


@pytest.mark.parametrize("name", BOUNDS)
def test_error_bound_natively(name):
    x = samples()
    (got,) = kernels.run(vectorized(COUNT, getattr(tirx, name)), [x])
    check(name, x, got)


@pytest.mark.parametrize("target", ["arm_cortex_a72", "riscv_spacemit_x60", "x86_64"])
@pytest.mark.parametrize("name", ["exp", "sigmoid", "log", "tanh", "erf", "sin"])
def test_error_bound_on_other_targets(name, target):
    x = samples(1 << 15)
    (got,) = kernels.run(vectorized(x.size, getattr(tirx, name)), [x], load_target(target))
    check(name, x, got)


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_power_edges_and_error_bound(target):
    edges = [0, 1, 2, 3, 0.5, 1.5, 7, 1e-45, 3e38, 16777216, 33554434, 1e10, math.inf, math.nan]
    edges = np.array([*edges, *(-e for e in edges)], np.float32)
    x, y = (grid.ravel() for grid in np.meshgrid(edges, edges))
    random = np.random.default_rng(0)
    whole = random.integers(-20, 20, 4096).astype(np.float32)
    x = np.concatenate([x, random.uniform(-3, 30, 8192 - x.size).astype(np.float32)])
    y = np.concatenate([y, random.uniform(-20, 20, 4096 - y.size).astype(np.float32), whole])
    (got,) = kernels.run(vectorized(x.size, tirx.pow, 2), [x, y], load_target(target))
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        exact32 = exact.astype(np.float32)
    # Denormal results are exact here, so nothing may be flushed.
    same = (got == exact32) | (np.isnan(got) & np.isnan(exact32))
    assert (same | (ulp_errors(got, exact) <= 1)).all()


@pytest.mark.parametrize(
    "exponent", [0, 1, 2, 3, -1, -3, 16, 0.5, 2.5, 0.25, 0.75, -0.25, -0.5, -0.75]
)
def test_constant_power(exponent):
    x = samples()
    x = x[x != -math.inf] if exponent == 0.5 else x  # NumPy's square root differs from C99
    x = x[: x.size // 8 * 8]
    func = vectorized(x.size, lambda v: tirx.pow(v, tirx.const(exponent, "float32")))
    (got,) = kernels.run(func, [x])
    with np.errstate(all="ignore"):
        errors = ulp_errors(got, np.power(x.astype(np.float64), exponent))
    inexact_reciprocal = exponent <= -1  # a power below FLUSHED, inverted
    quarter = abs(exponent) < 1 and exponent not in (0, 0.5)
    bound = 4.5 if quarter else abs(exponent) + 1
    limit = np.where(inexact_reciprocal & (np.abs(x) > 1e12), math.inf, bound)
    assert (errors <= limit).all()


@pytest.mark.parametrize("target", ["host", "x86_64", "arm_cortex_a7"])
@pytest.mark.parametrize("name", ["floor", "ceil", "trunc", "round", "nearbyint"])
def test_rounding_is_exact(name, target):
    ties = np.arange(-64, 64, 0.5, dtype=np.float32)
    x = np.concatenate([samples(1 << 14), ties, np.float32(2**23) + ties])
    if target == "arm_cortex_a7":  # ARMv7 NEON takes denormals for zero
        x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)
    (got,) = kernels.run(vectorized(x.size, getattr(tirx, name)), [x], load_target(target))
    reference = np.rint if name in {"round", "nearbyint"} else getattr(np, name)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(got, reference(x))


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72", "riscv_spacemit_x60"])
@pytest.mark.parametrize("name", [*BOUNDS, "pow"])
def test_code_is_vectors_without_libm(name, target):
    target = load_target(target)
    arguments = 2 if name == "pow" else 1
    text = kernels.assembly(vectorized(4096, getattr(tirx, name), arguments), target)
    assert kernels.libm_calls(text) == []
    assert kernels.vector_lines(text, target) >= 10


@pytest.mark.parametrize("target", ["x86_64", "arm_cortex_a7"])
@pytest.mark.parametrize("name", ["floor", "round", "exp"])
def test_rounding_calls_no_libm(name, target):
    text = kernels.assembly(vectorized(4096, getattr(tirx, name)), load_target(target))
    assert kernels.libm_calls(text) == []


def test_float64_keeps_the_c_library():
    x = te.placeholder((8,), "float64", name="x")
    func = te.create_prim_func([x, te.compute((8,), lambda i: tirx.exp(x[i]), name="out")])
    assert re.search(r"T\.exp\(", approximate_math(func, kernels.host()).script())


def test_float16_goes_through_float32():
    x = te.placeholder((8,), "float16", name="x")
    func = te.create_prim_func([x, te.compute((8,), lambda i: tirx.exp(x[i]), name="out")])
    values = np.array([0, 1, -1, 5, -5, 11, 12, -20], np.float16)
    (got,) = kernels.run(func, [values])
    with np.errstate(over="ignore"):
        expected = np.exp(values.astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


def test_functions_of_functions_do_not_nest():
    """Else a convolution with Mish, x * tanh(log1p(exp(x))), takes a minute to compile."""
    x = te.placeholder((64,), name="x")
    mish = te.compute((64,), lambda i: x[i] * tirx.tanh(tirx.log1p(tirx.exp(x[i]))), name="out")
    func = te.create_prim_func([x, mish])
    stores = []
    tvm_ffi.structural_walk(
        approximate_math(func, kernels.host()).body, [(tirx.BufferStore, stores.append)]
    )
    assert len(stores) == 3
    values = np.linspace(-20, 20, 64, dtype=np.float32)
    (got,) = kernels.run(func, [values])
    exact = values.astype(np.float64)
    np.testing.assert_allclose(got, exact * np.tanh(np.log1p(np.exp(exact))), rtol=1e-5, atol=1e-7)


def test_a_guarded_function_of_a_function_stays_guarded():
    """Nothing is read of 4 elements for the others of 8."""
    x = te.placeholder((4,), name="x")

    def value(i):
        return tirx.if_then_else(i < 4, tirx.exp(tirx.sin(x[tirx.min(i, 3)])), 0.0)

    func = te.create_prim_func([x, te.compute((8,), value, name="out")])
    stores = []
    tvm_ffi.structural_walk(
        approximate_math(func, kernels.host()).body, [(tirx.BufferStore, stores.append)]
    )
    assert len(stores) == 1
    values = np.array([0, 1, 2, 3], np.float32)
    (got,) = kernels.run(func, [values])
    np.testing.assert_allclose(got, [*np.exp(np.sin(values)), 0, 0, 0, 0], rtol=1e-6)
