"""Concatenations and slices that are names for memory instead of copies.

Before:  a = conv2d(...); b = conv2d(...); y = concat(a, b)      y copies a and b
After:   the same, but a and b are written where y's parts lie; a part that can't be written there
         gets a copy of its own, and what stays a kernel is legalised here.

Parts lie side by side in memory where all axes before the concatenated one have extent 1. Code
generation reads the views with ``compiler.passes.views`` as this pass did.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te

from compiler.passes.aliases import ALIAS_OPS
from compiler.passes.rewriter import Rewriter
from compiler.passes.views import Views, lies_side_by_side, nbytes, slice_offset

# Kernels assume the alignment of an element only, but vectors across cache lines are slow.
VIEW_ALIGNMENT = 16


def place_views(module: tvm.IRModule) -> tvm.IRModule:
    """Leave ``concat`` and ``strided_slice`` where they cost nothing; legalise all others."""
    return _Placer(_result_vars(module["main"])).rewrite(module)


class _Placer(Rewriter):
    """``views`` knows the variables of the new function that may lie in the arena.

    Args:
        results: variables of the old function whose memory the caller owns.
    """

    def __init__(self, results: set[relax.Var]) -> None:
        super().__init__()
        self.results = results
        self.views: Views[relax.Expr] = Views()
        self.handlers |= {"relax.concat": self._concat, "relax.strided_slice": self._slice}
        self.handlers |= dict.fromkeys(ALIAS_OPS, self._alias)

    def _rewrite_value(self, expr: relax.Expr) -> Any:
        value = super()._rewrite_value(expr)
        computed = isinstance(expr, (relax.Call, relax.TupleGetItem))
        is_tensor = isinstance(getattr(value, "ty", None), relax.TensorType)
        aliases = getattr(getattr(expr, "op", None), "name", "") in ALIAS_OPS
        if computed and is_tensor and not aliases and self.bound not in self.results:
            self._own(value)
        return value

    def _own(self, value: relax.Var) -> None:
        """Remember a new tensor with memory in the arena."""
        if value not in self.views:
            self.views.add(value, nbytes(value))

    def _alias(self, call: relax.Call) -> relax.Expr:
        args = [self.plain(a) for a in call.args]
        result = self.builder.emit(relax.Call(call.op, args, call.attrs))
        if args[0] in self.views:
            self.views.slice(result, args[0], 0)
        return result

    def _slice(self, call: relax.Call) -> relax.Expr:
        source, offset = self.plain(call.args[0]), slice_offset(call)
        new = relax.Call(call.op, [source, *call.args[1:]], call.attrs)
        if offset is None or offset % VIEW_ALIGNMENT or not nbytes(call):
            return self._legalize(new)
        if source not in self.views or self.bound in self.results:
            return self._legalize(new)
        result = self.builder.emit(new)
        self.views.slice(result, source, offset)
        return result

    def _concat(self, call: relax.Call) -> relax.Expr:
        parts = [self.plain(p) for p in call.args[0].fields]
        placed = self._placeable(call, parts)
        if placed is None:
            return self._legalize(relax.Call(call.op, [relax.Tuple(parts)], call.attrs))
        parts = [p if i in placed else self._copy(p) for i, p in enumerate(parts)]
        result = self.builder.emit(relax.Call(call.op, [relax.Tuple(parts)], call.attrs))
        self.views.concatenate(result, parts, [nbytes(p) for p in parts])
        return result

    def _placeable(self, call: relax.Call, parts: list[relax.Expr]) -> set[int] | None:
        """Positions of the parts that need no copy; None where that is not most of the bytes."""
        sizes = [nbytes(p) for p in parts]
        aligned = all(sum(sizes[:i]) % VIEW_ALIGNMENT == 0 for i in range(len(sizes)))
        if not lies_side_by_side(call) or not aligned or not all(sizes):
            return None
        if self.bound in self.results:
            return None
        owned = [p if p in self.views else None for p in parts]
        placed = self.views.can_place(owned, sizes)
        return placed if 2 * sum(sizes[i] for i in placed) >= sum(sizes) else None

    def _copy(self, value: relax.Expr) -> relax.Expr:
        copy = self.builder.emit_te(_copy, value, primfunc_name_hint="copy")
        self._own(copy)
        return copy

    def _legalize(self, call: relax.Call) -> relax.Expr:
        legalize = call.op.get_attr("FLegalize")
        return self.builder.emit(legalize(self.builder, self.builder.normalize(call)))


def _copy(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *index: x[index], name="copy")


def _result_vars(main: relax.Function) -> set[relax.Var]:
    """The function's results and what they are reshapes of."""
    results: set[relax.Var] = set()
    stack: list[relax.Expr] = [main.body.body]
    values = {b.var: b.value for block in main.body.blocks for b in block.bindings}
    while stack:
        expr = stack.pop()
        if isinstance(expr, relax.Tuple):
            stack.extend(expr.fields)
        elif isinstance(expr, relax.Var):
            results.add(expr)
            if expr in values:
                stack.append(values[expr])
        elif isinstance(expr, relax.TupleGetItem):
            stack.append(expr.tuple_value)
        elif isinstance(expr, relax.Call) and getattr(expr.op, "name", "") in ALIAS_OPS:
            stack.append(expr.args[0])
    return results
