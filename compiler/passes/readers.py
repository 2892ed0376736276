"""Who reads the variables of ``main``."""

from __future__ import annotations

from collections import defaultdict

from tvm import relax

from compiler.passes.packed_followers import ELEMENTWISE, UNARY

INLINED = frozenset(f"relax.{name}" for name in (*UNARY, *ELEMENTWISE))


class Readers:
    """The operators that read each variable, once for each time."""

    def __init__(self, main: relax.Function) -> None:
        self._readers: defaultdict[relax.Var, list[relax.Var | None]] = defaultdict(list)
        self._operators: dict[relax.Var, str] = {}
        for block in main.body.blocks:
            for binding in block.bindings:
                self._note(binding.value, binding.var)
                if isinstance(binding.value, relax.Call):
                    self._operators[binding.var] = getattr(binding.value.op, "name", "")
        self._note(main.body.body, None)

    def of(self, var: relax.Var) -> frozenset[relax.Var | None]:
        """The variables that are computed of it; None: it is a result of ``main``."""
        return frozenset(self._readers[var])

    def are_one(self, var: relax.Expr) -> bool:
        """Whether a variable is read exactly once."""
        return len(self._readers[var]) == 1

    def end_in(self, var: relax.Expr | None, operator: str) -> bool:
        """Whether nothing but a chain of element-wise operators lies between a variable and an
        operator of that name, and no link of it is read by anybody else."""
        linked = False
        while var is not None and self.are_one(var):
            var = self._readers[var][0]
            name = self._operators.get(var, "") if var is not None else ""
            if name == operator:
                return linked
            if name not in INLINED:
                return False
            linked = True
        return False

    def _note(self, expr: relax.Expr, reader: relax.Var | None) -> None:
        if isinstance(expr, relax.Var):
            self._readers[expr].append(reader)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                self._note(field, reader)
        elif isinstance(expr, relax.Call):
            for argument in expr.args:
                self._note(argument, reader)
        elif isinstance(expr, relax.TupleGetItem):
            self._note(expr.tuple_value, reader)
