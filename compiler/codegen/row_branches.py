"""Code of its own for the iterations of a blocked loop where conditions change.

The position of an iteration is a block's start plus the inner loop's variable. Conditions on it
(the border of a picture) hold for whole iterations, so one test chooses among copies of the body:

    before:  for b in parallel(8): for h in range(4): ... if 1 <= b * 4 + h + kh: ...
    after:   for b in parallel(8): for h in range(4):
                 if b * 4 + h < 1: ... (kh >= 1) else: ... (no test)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import sym, tirx

from compiler.codegen.loop_segments import COMPARISONS, changes, simplified, substituted

MAX_COPIES = 9
FAR = 1 << 30


@dataclass
class _Position:
    """``replaced`` plus ``start`` is the position; conditions change at ``cuts``."""

    replaced: tirx.Var
    start: tirx.PrimExpr
    cuts: set[int] = field(default_factory=set)


def branch_at_changes(loop: tirx.For, count: int) -> tirx.Stmt:
    """The loop with a copy of its body for each stretch of positions with constant conditions.

    Args:
        loop: one block's part of the positions [0, count). A loop over a block's only one is left
            to the variable of the loop around it.
    """
    found = _position(loop)
    if found is None:
        return loop
    cuts = sorted(cut for cut in found.cuts if 0 < cut < count)
    if not 0 < len(cuts) < MAX_COPIES:
        return loop
    position = tirx.Var("position", found.replaced.ty)
    here = found.start + found.replaced
    moved = substituted(loop.body, found.replaced, position - found.start)

    def copy(low: int, high: int) -> tirx.Stmt:
        body = simplified(moved, {position: tvm.ir.Range(low, high)})
        # The only position of a stretch is known to the taps as well.
        known = tirx.const(low, found.replaced.ty.dtype) if high == low + 1 else here
        return substituted(body, position, known)

    *others, body = (copy(low, high) for low, high in itertools.pairwise([0, *cuts, count]))
    for cut, other in reversed(list(zip(cuts, others, strict=True))):
        body = tirx.IfThenElse(here < cut, other, body)
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)


def _position(loop: tirx.For) -> _Position | None:
    """How conditions depend on the loop; None where they do not agree on a position."""
    analyzer = sym.Analyzer()
    inner: list[tirx.Var] = []

    def bind(node: tirx.For) -> None:
        inner.append(node.loop_var)
        if isinstance(node.extent, tirx.IntImm) and isinstance(node.min, tirx.IntImm):
            analyzer.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))

    tvm_ffi.structural_walk(loop.body, [(tirx.For, bind)])
    found: list[_Position] = []

    def visit(comparison: tirx.PrimExpr) -> None:
        if not str(comparison.a.ty.dtype).startswith("int"):
            return
        difference = comparison.a - comparison.b
        outer = [v for v in _variables(difference) if not _among(v, [*inner, loop.loop_var])]
        coefficients = sym.detect_linear_equation(difference, [loop.loop_var, *outer])
        if len(coefficients) != len(outer) + 2:
            return
        slope, *factors, rest = (analyzer.simplify(c) for c in coefficients)
        if _is_zero(slope) and int(loop.extent) == 1 and len(outer) == 1:
            position = _Position(outer[0], tirx.const(0, outer[0].ty.dtype))
            slope = factors[0]
        elif isinstance(slope, tirx.IntImm) and int(slope) != 0:
            terms = (tirx.floordiv(f, slope) * v for f, v in zip(factors, outer, strict=True))
            zero = tirx.const(0, loop.loop_var.ty.dtype)
            position = _Position(loop.loop_var, analyzer.simplify(sum(terms, zero)))
        else:
            return
        bound = analyzer.const_int_bound(rest)
        if abs(bound.min_value) < FAR and abs(bound.max_value) < FAR:
            for extreme in (bound.min_value, bound.max_value):
                position.cuts |= changes(type(comparison), int(slope), extreme)
            found.append(position)

    tvm_ffi.structural_walk(loop.body, [(kind, visit) for kind in COMPARISONS])
    return _united(found)


def _united(positions: list[_Position]) -> _Position | None:
    """All conditions' positions of change; None where they are not of one position."""
    if not positions:
        return None
    first = positions[0]
    for other in positions[1:]:
        if not other.replaced.same_as(first.replaced):
            return None
        if not tvm_ffi.structural_equal(other.start, first.start):
            return None
        first.cuts |= other.cuts
    return first


def _is_zero(expr: tirx.PrimExpr) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr) == 0


def _among(var: tirx.Var, variables: list[tirx.Var]) -> bool:
    return any(var.same_as(v) for v in variables)


def _variables(expr: tirx.PrimExpr) -> list[tirx.Var]:
    found: list[tirx.Var] = []

    def visit(var: tirx.Var) -> None:
        if not _among(var, found):
            found.append(var)

    tvm_ffi.structural_walk(expr, [(tirx.Var, visit)])
    return found
