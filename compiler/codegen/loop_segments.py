"""Where the conditions inside a loop change, and loop bodies specialised to a stretch of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
import tvm_ffi
from tvm import sym, tirx

MAX_CUTS = 12
COMPARISONS: dict[type, Callable[[int], bool]] = {  # of a - b with zero
    tirx.LT: lambda d: d < 0,
    tirx.LE: lambda d: d <= 0,
    tirx.GT: lambda d: d > 0,
    tirx.GE: lambda d: d >= 0,
    tirx.EQ: lambda d: d == 0,
    tirx.NE: lambda d: d != 0,
}


def positions_of_change(body: tirx.Stmt, var: tirx.Var, low: int, high: int) -> list[int]:
    """Sorted positions in (low, high) where a comparison of the loop variable changes its result.

    Only comparisons linear in var count whose remaining terms are bounded by constants and inner
    loops; a body with more than MAX_CUTS changes is left whole.
    """
    cuts: set[int] = set()
    analyzer = sym.Analyzer()

    def bind(loop: tirx.For) -> None:
        if isinstance(loop.extent, tirx.IntImm) and isinstance(loop.min, tirx.IntImm):
            analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))

    def visit(comparison: tirx.PrimExpr) -> None:
        if not str(comparison.a.ty.dtype).startswith("int"):
            return
        coefficients = sym.detect_linear_equation(comparison.a - comparison.b, [var])
        if len(coefficients) != 2:
            return
        slope, offset = (analyzer.simplify(c) for c in coefficients)
        if not isinstance(slope, tirx.IntImm) or int(slope) == 0:
            return
        # Inner loops move the position: beyond both extremes the result is one for all of them.
        bound = analyzer.const_int_bound(offset)
        if abs(bound.min_value) < 1 << 31 and abs(bound.max_value) < 1 << 31:
            for extreme in (bound.min_value, bound.max_value):
                cuts.update(changes(type(comparison), int(slope), extreme))

    tvm_ffi.structural_walk(body, [(tirx.For, bind)])
    tvm_ffi.structural_walk(body, [(kind, visit) for kind in COMPARISONS])
    inside = sorted(cut for cut in cuts if low < cut < high)
    return inside if len(inside) <= MAX_CUTS else []


def changes(kind: type, slope: int, offset: int) -> set[int]:
    """Positions whose answer to ``slope * v + offset <kind> 0`` differs from the one before."""
    holds = COMPARISONS[kind]
    root = -offset // slope
    return {
        v
        for v in range(root - 1, root + 3)
        if holds(slope * v + offset) != holds(slope * (v - 1) + offset)
    }


def substituted(body: tirx.Stmt, var: tirx.Var, value: tirx.PrimExpr) -> tirx.Stmt:
    """The body with every use of var replaced."""

    def replace(candidate: tirx.Var) -> tirx.PrimExpr:
        return value if candidate.same_as(var) else candidate

    return tvm_ffi.structural_map(body, [(tirx.Var, replace)])


def simplified(body: tirx.Stmt, ranges: Mapping[tirx.Var, int | tvm.ir.Range]) -> tirx.Stmt:
    """The body with conditions that are constant for variables in their ranges folded.

    Args:
        ranges: of each variable; a number stands for [0, number).
    """
    analyzer = sym.Analyzer()
    for var, bounds in ranges.items():
        analyzer.bind(var, tvm.ir.Range(0, bounds) if isinstance(bounds, int) else bounds)

    def branch(stmt: tirx.IfThenElse, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        known = _known(analyzer, stmt.condition)
        if known is None:
            return mutator.default_mutate(stmt)
        taken = stmt.then_case if known else stmt.else_case
        return tirx.Evaluate(0) if taken is None else mutator.mutate(taken)

    def select(expr: tirx.Select, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        known = _known(analyzer, expr.condition)
        if known is None:
            return mutator.default_mutate(expr)
        return mutator.mutate(expr.true_value if known else expr.false_value)

    def call(expr: tvm.ir.Call, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if getattr(expr.op, "name", "").endswith(".if_then_else"):
            known = _known(analyzer, expr.args[0])
            if known is not None:
                return mutator.mutate(expr.args[1] if known else expr.args[2])
            rest = _unknown_part(analyzer, expr.args[0])
            args = [rest, *(mutator.mutate(a) for a in expr.args[1:])]
            return tirx.if_then_else(*args)
        return mutator.default_mutate(expr)

    def loop(stmt: tirx.For, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        if isinstance(stmt.extent, tirx.IntImm) and isinstance(stmt.min, tirx.IntImm):
            bounds = tvm.ir.Range.from_min_extent(stmt.min, stmt.extent)
            analyzer.bind(stmt.loop_var, bounds, allow_override=True)
        return mutator.default_mutate(stmt)

    return tvm_ffi.structural_mutate(
        body,
        [
            (tirx.IfThenElse, branch),
            (tirx.Select, select),
            (tvm.ir.Call, call),
            (tirx.For, loop),
        ],
    )


def _known(analyzer: sym.Analyzer, condition: tirx.PrimExpr) -> bool | None:
    value = analyzer.simplify(condition)
    return bool(value.value) if isinstance(value, tirx.IntImm) else None


def _unknown_part(analyzer: sym.Analyzer, condition: tirx.PrimExpr) -> tirx.PrimExpr:
    """A conjunction without the terms that always hold here."""
    if isinstance(condition, tirx.And):
        left, right = _unknown_part(analyzer, condition.a), _unknown_part(analyzer, condition.b)
        if _known(analyzer, left):
            return right
        return left if _known(analyzer, right) else tirx.And(left, right)
    return condition
