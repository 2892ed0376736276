"""A picture of the memory plan in text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.cli.console import size

_MARKS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def memory_chart(
    allocations: Sequence[dict[str, Any]],
    n_calls: int,
    nbytes: int,
    width: int = 72,
    height: int = 16,
) -> list[str]:
    """Lines of a chart: time (operator calls) to the right, arena offset upwards.

    Each tensor is a block of one letter, from its first call to its last and from its offset to
    its end; "." is free memory. A column or row that covers several calls or tensors shows the
    one that fills its middle.

    Args:
        allocations: rows of manifest.json, with offset, nbytes, first, last.
        n_calls: number of operator calls.
        nbytes: size of the arena.
    """
    columns, rows = max(1, min(width, n_calls)), height
    repeat = max(1, min(4, width // columns))  # few calls: make them wide enough to see
    grid = [["."] * columns for _ in range(rows)]
    for row in range(rows):
        address = (row + 0.5) * nbytes / rows
        for column in range(columns):
            call = int((column + 0.5) * n_calls / columns)
            for number, item in enumerate(allocations):
                inside = item["offset"] <= address < item["offset"] + item["nbytes"]
                if inside and item["first"] <= call <= item["last"]:
                    grid[row][column] = _MARKS[number % len(_MARKS)]
    top = size(nbytes)
    lines = []
    for row in reversed(range(rows)):
        label = top if row == rows - 1 else ("0" if row == 0 else "")
        lines.append(f"{label:>9} |" + "".join(mark * repeat for mark in grid[row]))
    lines.append(" " * 10 + "+" + "-" * (columns * repeat))
    last = f"{n_calls - 1}" if n_calls > 1 else ""
    lines.append(" " * 11 + "0" + last.rjust(columns * repeat - 1) + "  call")
    return lines
