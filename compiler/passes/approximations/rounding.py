"""Rounding of float32 for vector units without a rounding instruction (SSE2, ARMv7 NEON).

ARMv7 NEON takes denormals for zero, here as in all its arithmetic.
"""

from __future__ import annotations

from tvm import tirx

from compiler.passes.approximations.expansion import Expansion

_INTEGERS_FROM = 8388608.0  # 2**23: every float32 of at least this magnitude is an integer


def nearbyint(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Nearest integer, ties to even. Exact; keeps -0, inf and NaN.

    Adding 2**23 to a smaller magnitude rounds it to an integer.
    """
    a = b.absolute(x)
    rounded = b.let(b.let(a + b.const(_INTEGERS_FROM)) - b.const(_INTEGERS_FROM))
    return b.with_sign(b.select(a < b.const(_INTEGERS_FROM), rounded, a), b.sign(x))


def floor(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Largest integer not above x. Exact; keeps -0, inf and NaN."""
    n = nearbyint(b, x)
    return b.select(n > x, b.let(n - b.const(1.0)), n)


def ceil(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Smallest integer not below x. Exact (zeros may lose their sign); keeps inf and NaN."""
    n = nearbyint(b, x)
    return b.select(n < x, b.let(n + b.const(1.0)), n)


def trunc(b: Expansion, x: tirx.PrimExpr) -> tirx.PrimExpr:
    """Towards zero. Exact; keeps -0, inf and NaN."""
    return b.with_sign(floor(b, b.absolute(x)), b.sign(x))
