"""sin, cos, tan and their inverses of float32."""

from __future__ import annotations

import math

from tvm import tirx

from compiler.passes.approximations.expansion import SIGN_BIT, Expansion

# Minimax on [0, (pi/4)**2] of sin(sqrt(u)) / sqrt(u) and cos(sqrt(u)), relative errors 6e-9 and
# 4e-9 (scripts/fit_approximations.py).
_SIN = (1.0, -0.16666650772094727, 0.008332016877830029, -0.00019501821952871978)
_COS = (1.0, -0.5, 0.04166661202907562, -0.0013886529486626387, 2.437267903587781e-05)
# Minimax of atan(sqrt(u)) / sqrt(u) up to tan(pi/8)**2, relative error 4e-8.
_ATAN = (
    1.0,
    -0.333327978849411,
    0.19974470138549805,
    -0.13852088153362274,
    0.07986737042665482,
)
# Minimax of asin(sqrt(u)) / sqrt(u) up to 1/4, relative error 1e-8.
_ASIN = (
    1.0,
    0.1666679084300995,
    0.07494434714317322,
    0.045550186187028885,
    0.023858169093728065,
    0.04263564199209213,
)
_ROUNDING = 6755399441055744.0  # 1.5 * 2**52
# pi / 2 in parts of 25, 25 and 53 bits: n times the first two is exact for |n| < 2**28.
_HALF_PI = (1.5707963109016418, 1.5893254712295857e-08, 6.123233995736766e-17)


def _quadrant(b: Expansion, x: tirx.PrimExpr) -> tuple[tirx.PrimExpr, tirx.PrimExpr]:
    """r in [-pi/4, pi/4] and the quadrant, with x = r + quadrant * pi / 2 (mod 2 pi).

    In float64 with pi / 2 in three parts: r is right to float32 rounding for |x| up to 2**27.
    """
    wide = b.cast(x, "float64")
    shifted = b.let(wide * b.const(2 / math.pi, "float64") + b.const(_ROUNDING, "float64"))
    n = b.let(shifted - b.const(_ROUNDING, "float64"))
    r = wide
    for part in _HALF_PI:
        r = b.let(r - n * b.const(part, "float64"))
    # Keeps |result| <= 1 where the reduction has lost its digits.
    r = b.clamp(b.cast(r, "float32"), -0.7854, 0.7854)
    return r, b.cast(b.bits(shifted), "int32")


def _sin_of_quadrant(b: Expansion, r: tirx.PrimExpr, quadrant: tirx.PrimExpr) -> tirx.PrimExpr:
    square = b.let(r * r)
    sine = b.let(r * b.polynomial(square, _SIN))
    cosine = b.polynomial(square, _COS)
    odd = b.let(quadrant & b.const(1, "int32"))
    value = b.select(odd == b.const(1, "int32"), cosine, sine)
    # Quadrants 2 and 3 are negative: bit 1 of the quadrant becomes the sign bit.
    sign = b.let(tirx.shift_left(quadrant, b.const(30, "int32")) & b.const(SIGN_BIT, "int32"))
    return b.with_sign(value, sign)


def sin(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Sine. Largest error 2 ULP for |x| < 2**27; beyond, only |result| <= 1 holds.

    Method: Cody-Waite reduction to [-pi/4, pi/4] in float64, minimax polynomials of degree 7 and 8.
    Keeps -0 and denormals; +-inf and NaN give NaN.
    """
    r, quadrant = _quadrant(b, x)
    return _sin_of_quadrant(b, r, quadrant)


def cos(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Cosine. Largest error 2 ULP for |x| < 2**27; see ``sin``."""
    r, quadrant = _quadrant(b, x)
    return _sin_of_quadrant(b, r, b.let(quadrant + b.const(1, "int32")))


def tan(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Tangent as sin / cos. Largest error 4 ULP for |x| < 2**27; see ``sin``."""
    r, quadrant = _quadrant(b, x)
    sine = _sin_of_quadrant(b, r, quadrant)
    return b.let(sine / _sin_of_quadrant(b, r, b.let(quadrant + b.const(1, "int32"))))


def atan(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse tangent. Largest error 3 ULP; +-inf give +-pi/2, NaN gives NaN.

    ``atan(a) = pi/2 - atan(1/a)`` above 1 and ``pi/4 + atan((a-1)/(a+1))`` above tan(pi/8), then
    an odd polynomial of degree 9 (Cephes' atanf has the same structure).
    """
    a = b.absolute(x)
    inverted = a > b.const(1.0)
    a = b.select(inverted, b.const(1.0) / a, a)
    turned = a > b.const(math.tan(math.pi / 8))
    a = b.select(turned, (a - b.const(1.0)) / (a + b.const(1.0)), a)
    angle = b.let(a * b.polynomial(b.let(a * a), _ATAN))
    angle = b.select(turned, b.let(angle + b.const(math.pi / 4)), angle)
    angle = b.select(inverted, b.let(b.const(math.pi / 2) - angle), angle)
    return b.with_sign(angle, b.sign(x))


def _asin_reduced(b: Expansion, a: tirx.PrimExpr) -> tuple[tirx.PrimExpr, tirx.PrimExpr]:
    """Whether a > 1/2, and the arc sine of a or, there, of sqrt((1 - a) / 2)."""
    large = a > b.const(0.5)
    half = b.let(b.const(0.5) * (b.const(1.0) - a))
    square = b.select(large, half, b.let(a * a))
    base = b.select(large, b.sqrt(half), a)
    return large, b.let(base * b.polynomial(square, _ASIN))


def asin(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse sine. Largest error 3 ULP; |x| > 1 and NaN give NaN.

    An odd polynomial of degree 11 up to 1/2, ``pi/2 - 2 asin(sqrt((1 - a) / 2))`` above (Cephes).
    """
    large, angle = _asin_reduced(b, b.absolute(x))
    angle = b.select(large, b.let(b.const(math.pi / 2) - b.let(angle + angle)), angle)
    return b.with_sign(angle, b.sign(x))


def acos(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Inverse cosine. Largest error 3 ULP; |x| > 1 and NaN give NaN; see ``asin``."""
    large, angle = _asin_reduced(b, b.absolute(x))
    negative = x < b.const(0.0)
    double = b.let(angle + angle)
    outer = b.select(negative, b.let(b.const(math.pi) - double), double)
    inner = b.let(b.const(math.pi / 2) - b.with_sign(angle, b.sign(x)))
    return b.select(large, outer, inner)
