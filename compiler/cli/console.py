"""Where text goes: results to stdout, everything else to stderr; and how it looks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO


def style(text: str, code: str, stream: TextIO) -> str:
    """The text in an ANSI style ("1" bold, "31" red, ...) where the stream shows colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\033[{code}m{text}\033[0m"


def result(text: str = "") -> None:
    """A line of the answer."""
    print(text)


def heading(text: str) -> None:
    print(style(text, "1", sys.stdout))


def result_json(data: Any) -> None:
    """The answer for machines: one JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """A remark that is not part of the answer."""
    print(text, file=sys.stderr, flush=True)


def error_line(message: str) -> None:
    line = " ".join(message.split())  # an error is one line
    print(f"{style('error:', '1;31', sys.stderr)} {line}", file=sys.stderr, flush=True)


def hint_line(hint: str) -> None:
    print(f"\n{style('hint:', '1;36', sys.stderr)} {hint}", file=sys.stderr, flush=True)


def warning_line(message: str) -> None:
    print(f"{style('warning:', '1;33', sys.stderr)} {message}", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Prints columns as wide as their cells.

    Args:
        right: indices of the columns that align right (numbers).
    """
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for number, row in enumerate(cells):
        parts = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(parts).rstrip()
        heading(line) if number == 0 else result(line)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Prints "name  value" lines, values aligned."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{style(name.ljust(width), '1', sys.stdout)}  {value}".rstrip())


def size(nbytes: int) -> str:
    """A byte count as people read it: "512 B", "18.2 KiB", "3.40 MiB"."""
    if nbytes < 1024:
        return f"{nbytes} B"
    value, unit = nbytes / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def count(value: int) -> str:
    """A count as people read it: "950", "12.3 k", "4.69 M"."""
    if value < 1000:
        return str(value)
    number, unit = value / 1000, "k"
    for larger in ("M", "G", "T"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def shape(extents: Sequence[int | str]) -> str:
    """ "1x3x224x224", or "scalar"."""
    return "x".join(str(extent) for extent in extents) or "scalar"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
