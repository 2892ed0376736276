"""x**y of float32."""

from __future__ import annotations

import math

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD  # of float64
_ROUNDING = 6755399441055744.0  # 1.5 * 2**52
_ROUNDING_BITS = 0x4338000000000000
# log2((1 + s) / (1 - s)) = s * sum c[k] s**2k: the atanh series, error 2e-12 for |s| < 0.1716.
_LOG2_RATIO = tuple(2 / math.log(2) / (2 * k + 1) for k in range(7))
# 2**r: the exponential series, error 1e-11 for |r| <= 0.5.
_EXP2 = tuple(math.log(2) ** k / math.factorial(k) for k in range(10))
_LARGEST_UNROLLED_EXPONENT = 16


def pow_(b: Expansion, x: tirx.PrimExpr, y: tirx.PrimExpr) -> tirx.PrimExpr:
    """x**y. Largest error 1 ULP in general, |n| / 2 + 1 ULP for constant integers |n| <= 16, and
    4.5 ULP for constant quarters |n| < 1.

    Constant exponents become multiplications (binary powering), square roots or reciprocals.
    Else ``2**(y log2 |x|)`` in float64, where plain series are exact enough for one float32
    rounding, overflow and denormals included.

    Edges as C99: x**0 and 1**y are 1, x < 0 has integer powers only (else NaN), 0 and inf go to
    0, 1 or inf, odd integer powers keep the sign; else NaN gives NaN.
    """
    exponent = _constant(y)
    if exponent is not None:
        special = _constant_power(b, x, exponent)
        if special is not None:
            return special
    return _general_power(b, x, y)


def _constant(y: tirx.PrimExpr) -> float | None:
    if isinstance(y, tirx.Broadcast):
        y = y.value
    return float(y.value) if isinstance(y, (tirx.FloatImm, tirx.IntImm)) else None


def _constant_power(b: Expansion, x: tirx.PrimExpr, exponent: float) -> tirx.PrimExpr | None:
    if abs(exponent) in (0.25, 0.5, 0.75):
        # pow(-inf, 0.5) is inf and pow(-0, 0.5) is 0, unlike the square root.
        root = b.let(b.sqrt(b.let(x + b.const(0.0))))
        if abs(exponent) != 0.5:
            fourth = b.let(b.sqrt(root))
            root = fourth if abs(exponent) == 0.25 else b.let(root * fourth)
        root = b.let(b.select(x == b.const(-math.inf), b.const(math.inf), root))
        return b.let(b.const(1.0) / root) if exponent < 0 else root
    if not exponent.is_integer() or abs(exponent) > _LARGEST_UNROLLED_EXPONENT:
        return None
    remaining, square = abs(int(exponent)), x
    result: tirx.PrimExpr | None = None
    while remaining:
        if remaining & 1:
            result = square if result is None else b.let(result * square)
        remaining >>= 1
        if remaining:
            square = b.let(square * square)
    if result is None:
        return b.const(1.0)
    return b.let(b.const(1.0) / result) if exponent < 0 else result


def _general_power(b: Expansion, x: tirx.PrimExpr, y: tirx.PrimExpr) -> tirx.PrimExpr:
    magnitude = b.absolute(x)
    wide_y = b.cast(y, "float64")
    value = _exp2(b, b.let(wide_y * _log2(b, magnitude)))
    zero, one, infinity = b.const(0.0), b.const(1.0), b.const(math.inf)
    grows = tirx.Or(tirx.And(magnitude > one, y > zero), tirx.And(magnitude < one, y < zero))
    extreme = b.select(grows, infinity, zero)
    extreme = b.select(magnitude == one, one, extreme)
    y_magnitude = b.absolute(y)
    at_edge = tirx.Or(tirx.Or(magnitude == zero, magnitude == infinity), y_magnitude == infinity)
    value = b.select(at_edge, extreme, value)
    # |y| >= 2**24 is an even integer; below, int32 holds it.
    whole = b.cast(b.clamp(y, -16777216.0, 16777216.0), "int32")
    fractional = tirx.And(b.cast(whole, "float32") != y, y_magnitude < b.const(16777216.0))
    odd = tirx.And(
        b.let(whole & b.const(1, "int32")) == b.const(1, "int32"),
        y_magnitude < b.const(16777216.0),
    )
    signed = b.with_sign(value, b.sign(x))
    value = b.select(tirx.And(odd, tirx.Not(fractional)), signed, value)
    undefined = tirx.And(tirx.And(x < zero, x > b.const(-math.inf)), fractional)
    value = b.select(undefined, b.const(math.nan), value)
    # NaN in either operand, then the two cases that ignore it.
    ordered = tirx.And(tirx.EQ(x, x), tirx.EQ(y, y))
    value = b.select(ordered, value, b.const(math.nan))
    return b.select(tirx.Or(y == zero, x == one), one, value)


def _log2(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """log2 in float64 of a positive finite float32 (denormals are normal in float64)."""
    bits = b.bits(b.cast(x, "float64"))
    offset = b.let(bits - b.const(_SQRT_HALF_BITS, "int64"))
    # Arithmetic shift, then the integer goes to float64 through the mantissa: few vector units
    # convert int64.
    e = b.let(tirx.shift_right(offset, b.const(52, "int64")))
    m = b.from_bits(b.let(bits - tirx.shift_left(e, b.const(52, "int64"))))
    exponent = b.let(
        b.from_bits(b.let(e + b.const(_ROUNDING_BITS, "int64"))) - b.const(_ROUNDING, "float64")
    )
    one = b.const(1.0, "float64")
    s = b.let((m - one) / (m + one))
    return b.let(exponent + s * b.polynomial(b.let(s * s), _LOG2_RATIO, "float64"))


def _exp2(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """2**x from float64, rounded once to float32."""
    x = b.clamp(x, -1000.0, 1000.0)
    shifted = b.let(x + b.const(_ROUNDING + 1023, "float64"))
    r = b.let(x - b.let(shifted - b.const(_ROUNDING + 1023, "float64")))
    scale = b.from_bits(b.let(tirx.shift_left(b.bits(shifted), b.const(52, "int64"))))
    return b.cast(b.let(b.polynomial(r, _EXP2, "float64") * scale), "float32")
