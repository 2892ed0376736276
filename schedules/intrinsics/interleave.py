"""Rows of bytes as one vector: the first of each row, the second of each, ..."""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx
from tvm.script import tirx as script

from schedules.intrinsics.description import Functions, register_functions


def interleave(rows: int, lanes: int) -> str:
    """The intrinsic for int8 rows [rows, lanes] -> [lanes, rows]; returns its name.

    LLVM knows what stores such a shuffle: ``st4``, ``vpunpck``.
    """
    return register_functions(f"interleave_{rows}x{lanes}", partial(_functions, rows, lanes))


def _functions(rows: int, lanes: int) -> Functions:
    @script.prim_func(s_tir=True)
    def description(
        x: script.Buffer((rows, lanes), "int8", offset_factor=1),
        y: script.Buffer((lanes, rows), "int8", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(x[0:rows, 0:lanes])
            script.writes(y[0:lanes, 0:rows])
            for i, j in script.grid(lanes, rows):
                with script.sblock("move"):
                    l, r = script.axis.remap("SS", [i, j])  # noqa: E741
                    y[l, r] = x[r, l]

    def shuffled(x: Any) -> tirx.PrimExpr:
        vectors = [x.vload([r, 0], f"int8x{lanes}") for r in range(rows)]
        places = [r * lanes + i for i in range(lanes) for r in range(rows)]
        return tirx.Shuffle(vectors, [tirx.IntImm("int32", p) for p in places])

    @script.prim_func(s_tir=True)
    def implementation(
        x: script.Buffer((rows, lanes), "int8", offset_factor=1),
        y: script.Buffer((lanes, rows), "int8", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(x[0:rows, 0:lanes])
            script.writes(y[0:lanes, 0:rows])
            y[0, script.ramp(0, 1, lanes * rows)] = shuffled(x)

    return description, implementation
