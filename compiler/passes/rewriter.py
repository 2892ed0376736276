"""A forward rewriter of ``main`` whose values may take other forms than Relax expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax


class Rewriter:
    """Rebuilds ``main`` binding by binding.

    ``handlers`` maps an operator's name to a method that returns the new value of a call, or None
    to keep the call as it is. A value of any class of the subclass' own is brought back by
    ``to_plain``, once, where an operator without a handler (or the function's result) needs it.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[relax.Call], Any]] = {}
        self.builder = relax.BlockBuilder()
        self.bound: relax.Var | None = None  # the old variable whose value is being rewritten
        self.name = ""  # of the old variable whose new value is being emitted
        self._values: dict[relax.Var, Any] = {}
        self._plain: dict[relax.Var, relax.Expr] = {}

    def to_plain(self, value: Any) -> relax.Expr:
        """The Relax expression of a value of the subclass' own class."""
        raise NotImplementedError

    def value(self, expr: relax.Expr) -> Any:
        """The new value of an expression of the old function."""
        return self._values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def plain(self, expr: relax.Expr) -> relax.Expr:
        """The new value of an expression of the old function as a Relax expression."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(f) for f in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        value = self.value(expr)
        if isinstance(value, relax.Expr):
            return value
        if expr not in self._plain:
            outer, self.name = self.name, expr.name
            self._plain[expr] = self.to_plain(value)
            self.name = outer
        return self._plain[expr]

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        """Binds an expression to a variable that is called what it was called before."""
        return self.builder.emit(expr, name_hint=name or self.name)

    def params(self, main: relax.Function) -> list[relax.Var]:
        """Parameters of the new function."""
        return list(main.params)

    def begin(self, main: relax.Function) -> None:
        """Called before the first binding."""

    def result(self, main: relax.Function) -> relax.Expr:
        """What the new function returns."""
        return self.plain(main.body.body)

    def rewrite(self, module: tvm.IRModule) -> tvm.IRModule:
        main = module["main"]
        others = {gvar: f for gvar, f in module.functions.items() if gvar.name_hint != "main"}
        self.builder = relax.BlockBuilder(tvm.IRModule(others, attrs=module.attrs))
        with self.builder.function("main", self.params(main)):
            with self.builder.dataflow():
                self.begin(main)
                for block in main.body.blocks:
                    for binding in block.bindings:
                        self.bound, self.name = binding.var, binding.var.name
                        self._values[binding.var] = self._rewrite_value(binding.value)
                result = self.builder.emit_output(self.result(main))
            self.builder.emit_func_output(result)
        rewritten = self.builder.finalize()
        rewritten["main"] = rewritten["main"].with_attrs(dict(main.attrs))
        return rewritten

    def _rewrite_value(self, expr: relax.Expr) -> Any:
        if isinstance(expr, relax.Var):
            return self.value(expr)
        if isinstance(expr, relax.Call):
            handler = self.handlers.get(getattr(expr.op, "name", ""))
            value = handler(expr) if handler else None
            if value is not None:
                return value
            args = [self.plain(a) for a in expr.args]
            return self.emit(relax.Call(expr.op, args, expr.attrs, expr.ty_args))
        if isinstance(expr, relax.TupleGetItem):
            return self.emit(relax.TupleGetItem(self.plain(expr.tuple_value), expr.index))
        return self.emit(self.plain(expr))
