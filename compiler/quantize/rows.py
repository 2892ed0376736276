"""Rows of a table by computed indices (embeddings), from a table that is stored as integers.

Before:  take(table[V, ...], index)
After:   (take(q, index) - take(zero_point, index)) * take(scale, index), one kernel
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te

from compiler.quantize.groups import value_of
from compiler.quantize.qdq import Quantum

# Function attribute: the axis along which a kernel of a table and indices takes elements.
TAKE_AXIS = "edgecc.take_axis"


def table_of(expr: relax.Expr, module: tvm.IRModule) -> np.ndarray | None:
    """The constant table of rank 2 whose rows a call takes; None for anything else.

    Args:
        module: whose functions it calls.
    """
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") != "relax.call_tir":
        return None
    attrs = module[expr.args[0]].attrs
    if not attrs or int(attrs.get(TAKE_AXIS, -1)) != 0:
        return None
    table = value_of(expr.args[1].fields[0])
    return table if table is not None and table.ndim == 2 else None


def emit_rows(
    builder: relax.BlockBuilder, stored: np.ndarray, quantum: Quantum, index: relax.Expr
) -> relax.Var:
    """float32 rows at indices that lie within the table.

    Args:
        stored: integers [V, ...].
        quantum: with one scale a row.
    """
    tables = [stored, quantum.scale]
    if not quantum.is_symmetric:
        tables.append(quantum.zero_point)

    def rows(index: te.Tensor, table: te.Tensor, scale: te.Tensor, zero: te.Tensor | None = None):
        rank = len(index.shape)

        def element(*i):
            row = index(*i[:rank])
            value = table(row, *i[rank:]).astype("int32")
            if zero is not None:
                value = value - zero[row].astype("int32")
            return value.astype("float32") * scale[row]

        return te.compute((*index.shape, *table.shape[1:]), element, name="take_rows")

    return builder.emit_te(rows, index, *map(relax.const, tables), primfunc_name_hint="take_rows")
