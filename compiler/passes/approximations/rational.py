"""tanh and erf of float32: odd rational functions on the range where they are not yet +-1."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion

# Minimax on |x| <= 9.02 of tanh(x) / x in u = x**2, relative error 9.9e-8
# (scripts/fit_approximations.py).
_TANH_NUMERATOR = (
    1.0,
    0.1308315545320511,
    0.0031030038371682167,
    1.1144144991703797e-05,
    -2.0181520454798374e-08,
    5.2549457840722624e-11,
    -8.423817199343375e-14,
)
_TANH_DENOMINATOR = (
    1.0,
    0.4641648232936859,
    0.024491380900144577,
    0.00025447513326071203,
)
# Minimax on |x| <= 3.925 of erf(x) / x in u = x**2, relative error 6.2e-8.
_ERF_NUMERATOR = (
    1.1283791065216064,
    0.20036514103412628,
    0.05063120648264885,
    0.0037191833835095167,
    0.00014217144052963704,
    -1.956590040208539e-06,
    1.9869485612389326e-08,
)
_ERF_DENOMINATOR = (
    1.0,
    0.510900616645813,
    0.11517997831106186,
    0.014390027150511742,
    0.0009599687764421105,
)


def _odd_ratio(
    b: Expansion,
    x: tirx.PrimExpr,
    limit: float,
    numerator: Sequence[float],
    denominator: Sequence[float],
) -> tirx.PrimExpr:
    x = b.clamp(x, -limit, limit)
    square = b.let(x * x)
    p = b.let(x * b.polynomial(square, numerator))
    return b.clamp(b.let(p / b.polynomial(square, denominator)), -1.0, 1.0)


def tanh(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Hyperbolic tangent. Largest error 6 ULP (relative 4e-7), never above 1 in magnitude.

    Method: x P(x**2) / Q(x**2) of degrees 13 and 6 (the form of Eigen's ptanh, own coefficients)
    on |x| <= 9.02, where tanh rounds to 1. Keeps -0, denormals and NaN; +-inf give +-1.
    """
    return _odd_ratio(b, x, 9.02, _TANH_NUMERATOR, _TANH_DENOMINATOR)


def erf(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Error function. Largest error 6 ULP (relative 4e-7), never above 1 in magnitude.

    Method: x P(x**2) / Q(x**2) of degrees 13 and 8 on |x| <= 3.925, where erf rounds to 1.
    Keeps -0, denormals and NaN; +-inf give +-1.
    """
    return _odd_ratio(b, x, 3.925, _ERF_NUMERATOR, _ERF_DENOMINATOR)
