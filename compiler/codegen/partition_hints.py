"""Keep loop partition hints on their loops when index variables are narrowed.

NarrowDataType gives a loop over int64 a new int32 variable, but the hint around the loop goes on
naming the old one, and LoopPartition ignores it: the guard of a ragged tile stays in the main loop.

    before:  attr(i64, "pragma_loop_partition_hint") for i32 in range(523): ...
    after:   attr(i32, "pragma_loop_partition_hint") for i32 in range(523): ...
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx

HINT = "pragma_loop_partition_hint"


def renew_partition_hints(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Let every hint name the variable of the loop in it; run right after NarrowDataType."""

    def visit(stmt: tirx.AttrStmt, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        stmt = mutator.default_mutate(stmt)
        if stmt.attr_key != HINT or not isinstance(stmt.body, tirx.For):
            return stmt
        return tirx.AttrStmt(stmt.body.loop_var, HINT, stmt.value, stmt.body)

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.AttrStmt, visit)]))
