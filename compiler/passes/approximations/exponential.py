"""exp, exp2, exp10, sigmoid, sinh and cosh of float32."""

from __future__ import annotations

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion

# Minimax on [-0.35, 0.35] of 2 exp(r), relative error 1.9e-8 (scripts/fit_approximations.py).
_TWICE_EXP = (
    2.0,
    2.0,
    0.9999998211860657,
    0.3333282172679901,
    0.08333657681941986,
    0.01675128936767578,
    0.00276716030202806,
)
# Minimax on [-0.505, 0.505] of 2 * 2**r, relative error 1.8e-8.
_TWICE_EXP2 = (
    2.0,
    1.3862943649291992,
    0.48045292496681213,
    0.11100650578737259,
    0.019237007945775986,
    0.00268025160767138,
    0.00030689308186993003,
)
# Minimax on [0, 1] of sinh(sqrt(u)) / sqrt(u), relative error 6e-9.
_SINH = (
    1.0,
    0.1666666716337204,
    0.008333352394402027,
    0.00019835813145618886,
    2.818523853420629e-06,
)
_LOG2_E = 1.4426950408889634
# Cody and Waite's split of ln 2: the high part has 10 bits, so n * high is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_LOG10_2_HIGH = 0.301025390625
_LOG10_2_LOW = 4.605038981195214e-06
_LN_10 = 2.302585092994046
_ROUNDING = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits


def exp(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """e**x. Largest error 2 ULP.

    Method: ``exp(x) = 2**n exp(r)`` with n the integer nearest to x / ln 2 (Cephes, S. Moshier)
    and a minimax polynomial of degree 6 for exp(r). 2**(n-1) is made by shifting n into the
    exponent; the polynomial yields 2 exp(r), so that n = 128 needs no second scaling.

    Edges: x > 88.7228 and inf give inf; x < -86.99 (results under 1.66e-38) and -inf give 0;
    NaN gives NaN.
    """
    return exp_scaled(b, x, 0)


def exp_scaled(b: Expansion, x: tirx.PrimExpr, power: int) -> tirx.PrimExpr:
    """``exp(x) * 2**power`` for power 0 or -1; as exact as ``exp``, overflows power later."""
    # At the lower limit the shifted exponent is 0, so that the scale is 0.0; at the upper limit
    # the product with the scale overflows.
    x = b.clamp(x, -87.0 - power * 0.6931472, 88.75 - power * 0.6931472)
    shifted = b.let(x * b.const(_LOG2_E) + b.const(_ROUNDING + 126 + power))
    n = b.let(shifted - b.const(_ROUNDING + 126 + power))
    r = b.let(x - n * b.const(_LN2_HIGH))
    r = b.let(r - n * b.const(_LN2_LOW))
    return b.let(b.polynomial(r, _TWICE_EXP) * _power_of_two(b, shifted))


def exp2(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """2**x. Largest error 2 ULP; x >= 128 gives inf, x < -125.5 gives 0, NaN gives NaN."""
    x = b.clamp(x, -126.0, 128.25)
    shifted = b.let(x + b.const(_ROUNDING + 126))
    r = b.let(x - b.let(shifted - b.const(_ROUNDING + 126)))
    return b.let(b.polynomial(r, _TWICE_EXP2) * _power_of_two(b, shifted))


def exp10(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """10**x. Largest error 2 ULP; x > 38.5318 gives inf, x < -37.78 gives 0, NaN gives NaN."""
    x = b.clamp(x, -37.9, 38.6)
    shifted = b.let(x * b.const(_LOG2_E * _LN_10) + b.const(_ROUNDING + 126))
    n = b.let(shifted - b.const(_ROUNDING + 126))
    r = b.let(x - n * b.const(_LOG10_2_HIGH))
    r = b.let((r - n * b.const(_LOG10_2_LOW)) * b.const(_LN_10))
    return b.let(b.polynomial(r, _TWICE_EXP) * _power_of_two(b, shifted))


def _power_of_two(b: Expansion, shifted: tirx.PrimExpr) -> tirx.PrimExpr:
    """Shift the integer in the low mantissa bits of ``shifted`` into the exponent."""
    return b.from_bits(b.let(tirx.shift_left(b.bits(shifted), b.const(23, "int32"))))


def sigmoid(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """``1 / (1 + exp(-x))``. Largest error 4 ULP.

    Edges: x < -88.72 and -inf give 0, inf gives 1, NaN gives NaN.
    """
    e = exp(b, b.let(b.const(0.0) - x))
    return b.let(b.const(1.0) / (b.const(1.0) + e))


def sinh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Hyperbolic sine. Largest error 4 ULP.

    ``(e**|x| - e**-|x|) / 2`` where |x| >= 1, an odd polynomial of degree 9 below. The halved
    exponential overflows only where the result does (|x| > 89.4); NaN gives NaN.
    """
    a = b.absolute(x)
    half = exp_scaled(b, a, -1)
    large = b.let(half - b.const(0.25) / half)
    small = b.let(a * b.polynomial(b.let(a * a), _SINH))
    return b.with_sign(b.select(a < b.const(1.0), small, large), b.sign(x))


def cosh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Hyperbolic cosine. Largest error 3 ULP; |x| > 89.4 gives inf, NaN gives NaN."""
    half = exp_scaled(b, b.absolute(x), -1)
    return b.let(half + b.const(0.25) / half)
