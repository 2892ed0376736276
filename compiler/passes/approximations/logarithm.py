"""Logarithms and inverse hyperbolic functions of float32."""

from __future__ import annotations

import math

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion

# Minimax on [sqrt(1/2) - 1, sqrt(2) - 1] of (log(1 + f) - f + f**2 / 2) / f**3, relative error
# 4.7e-7 (scripts/fit_approximations.py); the leading terms are added exactly.
_LOG_TAIL = (
    0.3333333134651184,
    -0.25000303983688354,
    0.20001201331615448,
    -0.16641581058502197,
    0.14209945499897003,
    -0.1298927664756775,
    0.12655699253082275,
    -0.0797421857714653,
)
_SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 1.1754943508222875e-38
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
# log2(e) - 1 and log10(e), log10(2) in two parts: the high parts have few bits.
_LOG2_E_MINUS_1 = 0.4426950408889634
_LOG10_E = 0.4342944819032518
_LOG10_2_HIGH = 0.301025390625
_LOG10_2_LOW = 4.605038981195214e-06


def _reduce(b: Expansion, x: tirx.PrimExpr) -> tuple[tirx.PrimExpr, tirx.PrimExpr]:
    """``x = 2**e (1 + f)`` with 1 + f in [sqrt(1/2), sqrt(2)); x positive and finite."""
    tiny = x < b.const(_SMALLEST_NORMAL)
    bits = b.bits(b.select(tiny, x * b.const(2.0**23), x))
    e = b.let(
        tirx.shift_right(b.let(bits - b.const(_SQRT_HALF_BITS, "int32")), b.const(23, "int32"))
    )
    f = b.let(b.from_bits(b.let(bits - tirx.shift_left(e, b.const(23, "int32")))) - b.const(1.0))
    exponent = b.cast(e, "float32")
    return b.select(tiny, exponent - b.const(23.0), exponent), f


def _log1p_tail(b: Expansion, f: tirx.PrimExpr) -> tirx.PrimExpr:
    """``log(1 + f) - f`` for reduced f."""
    square = b.let(f * f)
    cubic = b.let(b.let(square * f) * b.polynomial(f, _LOG_TAIL))
    return b.let(cubic - b.const(0.5) * square)


def _edges(b: Expansion, x: tirx.PrimExpr, regular: tirx.PrimExpr) -> tirx.PrimExpr:
    """inf at inf, -inf at 0, NaN below 0 and for NaN, else regular."""
    infinity, nan = b.const(math.inf), b.const(math.nan)
    zero = b.select(x == b.const(0.0), b.const(-math.inf), nan)
    special = b.select(x > b.const(0.0), infinity, zero)
    return b.select(tirx.And(x > b.const(0.0), x < infinity), regular, special)


def log(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Natural logarithm. Largest error 2 ULP, denormals included.

    Method: Cephes' logf: mantissa in [sqrt(1/2), sqrt(2)), ``f - f**2 / 2`` exactly, the rest by a
    minimax polynomial of degree 7 times f**3, and e ln 2 in two parts.

    Edges: 0 and -0 give -inf, negative numbers and NaN give NaN, inf gives inf.
    """
    e, f = _reduce(b, x)
    low = b.let(_log1p_tail(b, f) + e * b.const(_LN2_LOW))
    return _edges(b, x, b.let(b.let(low + f) + e * b.const(_LN2_HIGH)))


def log2(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Binary logarithm. Largest error 3 ULP; powers of two are exact; edges as ``log``."""
    e, f = _reduce(b, x)
    tail = _log1p_tail(b, f)
    low = b.let(b.let(tail + f) * b.const(_LOG2_E_MINUS_1) + tail)
    return _edges(b, x, b.let(b.let(low + f) + e))


def log10(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Decimal logarithm. Largest error 3 ULP; edges as ``log``."""
    e, f = _reduce(b, x)
    mantissa = b.let(b.let(_log1p_tail(b, f) + f) * b.const(_LOG10_E))
    return _edges(
        b, x, b.let(b.let(mantissa + e * b.const(_LOG10_2_LOW)) + e * b.const(_LOG10_2_HIGH))
    )


def log1p(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """``log(1 + x)``. Largest error 4 ULP; edges as ``log(1 + x)``.

    W. Kahan's correction: with u = 1 + x rounded, ``log(u) + (x - (u - 1)) / u``.
    """
    u = b.let(b.const(1.0) + x)
    logarithm = log(b, u)
    correction = b.let((x - (u - b.const(1.0))) / u)
    regular = tirx.And(u > b.const(0.0), u < b.const(math.inf))
    return b.select(regular, b.let(logarithm + correction), logarithm)


def asinh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse hyperbolic sine. Largest error 5 ULP; odd, so inf and NaN stay themselves.

    ``log1p(a + a**2 / (1 + sqrt(a**2 + 1)))``; above 1e9, ``log(a) + ln 2``.
    """
    a = b.absolute(x)
    large = a > b.const(1e9)
    square = b.let(a * a)
    small = b.let(a + square / (b.const(1.0) + b.sqrt(b.let(square + b.const(1.0)))))
    value = log1p(b, b.select(large, a, small))
    value = b.select(large, b.let(value + b.const(math.log(2))), value)
    return b.with_sign(value, b.sign(x))


def acosh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse hyperbolic cosine. Largest error 5 ULP; x < 1 and NaN give NaN, inf gives inf."""
    large = x > b.const(1e9)
    t = b.let(x - b.const(1.0))
    small = b.let(t + b.sqrt(b.let(t * (t + b.const(2.0)))))
    small = b.select(t < b.const(0.0), b.const(math.nan), small)
    value = log1p(b, b.select(large, x, small))
    return b.select(large, b.let(value + b.const(math.log(2))), value)


def atanh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse hyperbolic tangent. Largest error 6 ULP; +-1 give +-inf, |x| > 1 and NaN NaN."""
    a = b.absolute(x)
    value = b.let(b.const(0.5) * log1p(b, b.let(b.let(a + a) / (b.const(1.0) - a))))
    return b.with_sign(value, b.sign(x))
