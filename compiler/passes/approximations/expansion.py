"""Building blocks of the approximations: let-bound straight-line code on vectors of any lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx

SIGN_BIT = -0x80000000  # of float32, as int32
MAGNITUDE_BITS = 0x7FFFFFFF


class Expansion:
    """Straight-line code under construction: values are bound once and used by name.

    Every method takes and returns expressions of ``lanes`` lanes. ``a if cond else b`` is a
    Select, which evaluates both sides: that is what a vector unit does anyway.

    Args:
        lanes: vector lanes of all values; 1 for scalars.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._bindings: list[tuple[tirx.Var, tirx.PrimExpr]] = []

    def let(self, value: tirx.PrimExpr) -> tirx.Var:
        """Name a value, so that later uses do not copy its expression."""
        var = tirx.Var(f"t{len(self._bindings)}", value.ty)
        self._bindings.append((var, value))
        return var

    def lift(self, value: tirx.PrimExpr) -> tirx.PrimExpr:
        """``value`` with the lets inside it bound here: ``f(let a in b)`` -> ``let a in f(b)``.

        Expansions of expansions would nest lets within lets, and code generation takes time
        exponential in that depth.
        """
        while isinstance(value, tirx.Let):
            if not any(var.same_as(value.var) for var, _ in self._bindings):
                self._bindings.append((value.var, value.value))
            value = value.body
        if isinstance(value, (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)):
            return type(value)(self.lift(value.a), self.lift(value.b))
        if isinstance(value, tirx.Select):
            yes, no = self.lift(value.true_value), self.lift(value.false_value)
            return tirx.Select(value.condition, yes, no)
        return value

    def finish(self, result: tirx.PrimExpr) -> tirx.PrimExpr:
        """The result as one expression, nested in the bindings made so far."""
        for var, value in reversed(self._bindings):
            result = tirx.Let(var, value, result)
        return result

    def statements(self) -> list[tirx.Stmt]:
        """The bindings made so far, to put in front of a statement that uses them."""
        return [tirx.Bind(var, value) for var, value in self._bindings]

    def dtype(self, element: str) -> str:
        """The vector type of an element type, such as "float32x8"."""
        return element if self.lanes == 1 else f"{element}x{self.lanes}"

    def const(self, value: float, element: str = "float32") -> tirx.PrimExpr:
        """A constant in all lanes."""
        return tirx.const(value, self.dtype(element))

    def bits(self, value: tirx.PrimExpr) -> tirx.PrimExpr:
        """The bit pattern of float32 as int32, of float64 as int64."""
        element = "int64" if _is_wide(value) else "int32"
        return self.let(tirx.reinterpret(self.dtype(element), value))

    def from_bits(self, value: tirx.PrimExpr) -> tirx.PrimExpr:
        """The inverse of ``bits``."""
        element = "float64" if _is_wide(value) else "float32"
        return self.let(tirx.reinterpret(self.dtype(element), value))

    def cast(self, value: tirx.PrimExpr, element: str) -> tirx.PrimExpr:
        """A value conversion to another element type."""
        return self.let(tirx.Cast(tvm.ir.PrimType(self.dtype(element)), value))

    def select(self, condition: Any, yes: tirx.PrimExpr, no: tirx.PrimExpr) -> tirx.PrimExpr:
        """Lane by lane yes or no."""
        return self.let(tirx.Select(condition, yes, no))

    def clamp(self, x: tirx.PrimExpr, low: float, high: float) -> tirx.PrimExpr:
        """x limited to [low, high]; NaN stays NaN.

        Generated code for ``min(a, b)`` is ``a < b ? a : b``: a NaN survives as second operand.
        """
        element = "float64" if _is_wide(x) else "float32"
        upper = self.let(tirx.Min(self.const(high, element), x))
        return self.let(tirx.Max(self.const(low, element), upper))

    def absolute(self, x: tirx.PrimExpr) -> tirx.PrimExpr:
        """|x|, exact, of float32."""
        return self.from_bits(self.let(self.bits(x) & self.const(MAGNITUDE_BITS, "int32")))

    def sign(self, x: tirx.PrimExpr) -> tirx.PrimExpr:
        """The sign bit of float32 as int32, for ``with_sign``."""
        return self.let(self.bits(x) & self.const(SIGN_BIT, "int32"))

    def with_sign(self, magnitude: tirx.PrimExpr, sign: tirx.PrimExpr) -> tirx.PrimExpr:
        """Flip the sign of a float32 where the sign bit is set."""
        return self.from_bits(self.let(self.bits(magnitude) ^ sign))

    def polynomial(
        self, x: tirx.PrimExpr, coefficients: Sequence[float], element: str = "float32"
    ) -> tirx.PrimExpr:
        """``sum c[k] x**k`` by Horner's rule: one multiply-add a coefficient."""
        value = self.const(coefficients[-1], element)
        for coefficient in reversed(coefficients[:-1]):
            value = self.let(value * x + self.const(coefficient, element))
        return value

    def sqrt(self, x: tirx.PrimExpr) -> tirx.PrimExpr:
        """The hardware's square root."""
        return self.let(tirx.sqrt(x))


def _is_wide(value: tirx.PrimExpr) -> bool:
    """Whether an element has 64 bits."""
    return tvm.DataType(str(value.ty.dtype)).bits == 64
