"""Operands of widening multiply-adds in the form that LLVM makes RVV's ``vwmacc.vx`` of.

LLVM's optimiser takes parts of a vector before it widens them, and widens scalars as vectors. For
the instructions each part would have to be shifted to the front of a register first, and each
scalar be copied into one. In the optimised LLVM IR widening comes first again:

    before:  %w = load <64 x i8>, ptr %p
             %a = shufflevector <64 x i8> %w, <64 x i8> poison, <16 x i32> <i32 16, ...>
             %b = sext <16 x i8> %a to <16 x i32>
             %d = insertelement <16 x i8> poison, i8 %x, i64 0
             %e = shufflevector <16 x i8> %d, <16 x i8> poison, <16 x i32> zeroinitializer
             %f = sext <16 x i8> %e to <16 x i32>
    after:   %wide.w = sext <64 x i8> %w to <64 x i16>
             %part.b = shufflevector <64 x i16> %wide.w, <64 x i16> poison, <16 x i32> <i32 16, ...>
             %b = sext <16 x i16> %part.b to <16 x i32>
             %wide.f = sext i8 %x to i32
             %first.f = insertelement <16 x i32> poison, i32 %wide.f, i64 0
             %f = shufflevector <16 x i32> %first.f, <16 x i32> poison, ... zeroinitializer
"""

from __future__ import annotations

import re

_LOAD = re.compile(r"^ +(%\S+) = load <(\d+) x i8>,")
_FIRST = re.compile(r"^ +(%\S+) = insertelement <\d+ x i8> poison, i8 (%[^\s,]+), i64 0")
_SHUFFLE = re.compile(
    r"^ +(%\S+) = shufflevector <(\d+) x i8> (%[^\s,]+), <\d+ x i8> poison, "
    r"<\d+ x i32> (zeroinitializer|<.*?>)"
)
_WIDENED = re.compile(r"^( +)(%\S+) = sext <(\d+) x i8> (%[^\s,]+) to <\3 x i32>")


def widen_first(text: str) -> str:
    """LLVM IR whose parts of vectors and whose copies of scalars are made after widening."""
    loads: dict[str, tuple[int, int]] = {}  # name -> (line, elements)
    scalars: dict[str, str] = {}
    shuffles: dict[str, tuple[str, str]] = {}  # name -> (source, mask)
    lines: list[str] = []
    wide: set[int] = set()
    for line in text.split("\n"):
        if line.startswith("define "):
            loads, scalars, shuffles = {}, {}, {}
        if match := _LOAD.match(line):
            loads[match[1]] = (len(lines), int(match[2]))
        elif match := _FIRST.match(line):
            scalars[match[1]] = match[2]
        elif match := _SHUFFLE.match(line):
            shuffles[match[1]] = (match[3], match[4])
        elif match := _WIDENED.match(line):
            indent, name, count, operand = match.groups()
            source, mask = shuffles.get(operand, ("", ""))
            if source in scalars and mask == "zeroinitializer":
                line = _copied(indent, name, count, scalars[source])
            elif source in loads:
                position, elements = loads[source]
                if position not in wide:
                    wide.add(position)
                    lines[position] += f"\n{indent}%wide.{source[1:]} = " + _sext(elements, source)
                line = _part(indent, name, count, f"<{elements} x i16>", source, mask)
        lines.append(line)
    return "\n".join(lines)


def _sext(elements: int, source: str) -> str:
    return f"sext <{elements} x i8> {source} to <{elements} x i16>"


def _copied(indent: str, name: str, count: str, scalar: str) -> str:
    vector, key = f"<{count} x i32>", name[1:]
    return "\n".join(
        [
            f"{indent}%wide.{key} = sext i8 {scalar} to i32",
            f"{indent}%first.{key} = insertelement {vector} poison, i32 %wide.{key}, i64 0",
            f"{indent}{name} = shufflevector {vector} %first.{key}, {vector} poison, "
            f"<{count} x i32> zeroinitializer",
        ]
    )


def _part(indent: str, name: str, count: str, vector: str, source: str, mask: str) -> str:
    part = f"%part.{name[1:]}"
    return "\n".join(
        [
            f"{indent}{part} = shufflevector {vector} %wide.{source[1:]}, {vector} poison, "
            f"<{count} x i32> {mask}",
            f"{indent}{name} = sext <{count} x i16> {part} to <{count} x i32>",
        ]
    )
