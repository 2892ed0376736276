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

So does what makes floats of bytes, for products of floats with weights that are stored as these.

Products of two vectors are added by the instruction's intrinsic: LLVM gives up where many of them
share operands, and where these are widened before a loop.

    before:  %b = sext <16 x i8> %a to <16 x i32>
             %d = sext <16 x i16> %c to <16 x i32>
             %p = mul nsw <16 x i32> %b, %d
             %q = add nsw <16 x i32> %p, %s
    after:   %half.b = sext <16 x i8> %a to <16 x i16>
             %q = vwmacc(%s, %half.b, %c)                (as scalable vectors of the same length)
"""

from __future__ import annotations

import re

_LOAD = re.compile(r"^ +(%\S+) = load <(\d+) x i8>,")
_FIRST = re.compile(r"^ +(%\S+) = insertelement <\d+ x i(8|16)> poison, i\2 (%[^\s,]+), i64 0")
_SHUFFLE = re.compile(
    r"^ +(%\S+) = shufflevector <(\d+) x i(?:8|16)> (%[^\s,]+), <\d+ x i(?:8|16)> poison, "
    r"<\d+ x i32> (zeroinitializer|<.*?>)"
)
_WIDENED = re.compile(r"^( +)(%\S+) = sext <(\d+) x i8> (%[^\s,]+) to <\3 x i32>")
_REAL = re.compile(r"^( +)(%\S+) = sitofp <(\d+) x i8> (%[^\s,]+) to <\3 x float>")
_FROM_HALF = re.compile(r"^( +)(%\S+) = sext <(\d+) x i16> (%[^\s,]+) to <\3 x i32>")
_MULTIPLY = re.compile(r"^( +)(%\S+) = mul (?:nuw |nsw )*<\d+ x i32> (%[^\s,]+), (%[^\s,]+)")
_ADD = re.compile(r"^( +)(%\S+) = add (?:nuw |nsw )*<\d+ x i32> (%[^\s,]+), (%[^\s,]+)")
_INSERT, _EXTRACT = "@llvm.vector.insert", "@llvm.vector.extract"


def widen_first(text: str, scale: int) -> str:
    """LLVM IR whose parts of vectors and whose copies of scalars are made after widening.

    Args:
        scale: LLVM's vscale, a vector register in blocks of 64 bits.
    """
    loads: dict[str, tuple[int, int]] = {}  # name -> (line, elements)
    scalars: dict[str, str] = {}  # name -> "i8 %x"
    shuffles: dict[str, tuple[str, str]] = {}  # name -> (source, mask)
    halves: dict[str, tuple[str, str]] = {}  # name -> (elements, what is half as wide)
    products: dict[str, tuple[str, str, str]] = {}  # name -> (elements, operands half as wide)
    added: set[int] = set()  # elements of sums made by the intrinsic
    lines: list[str] = []
    wide: set[int] = set()
    for line in _real_first(text).split("\n"):
        if line.startswith("define "):
            loads, scalars, shuffles, halves, products = {}, {}, {}, {}, {}
        if match := _LOAD.match(line):
            loads[match[1]] = (len(lines), int(match[2]))
        elif match := _FIRST.match(line):
            scalars[match[1]] = f"i{match[2]} {match[3]}"
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
            else:
                halves[name] = (count, f"%half.{name[1:]}")
                line += f"\n{indent}%half.{name[1:]} = {_sext(int(count), operand)}"
        elif match := _FROM_HALF.match(line):
            indent, name, count, operand = match.groups()
            source, mask = shuffles.get(operand, ("", ""))
            if source in scalars and mask == "zeroinitializer":
                line = _copied(indent, name, count, scalars[source])
            else:
                halves[name] = (count, operand)
        elif match := _MULTIPLY.match(line):
            operands = match.groups()[2:]
            if all(o in halves for o in operands):
                left, right = (halves[o] for o in operands)
                products[match[2]] = (left[0], left[1], right[1])
        elif match := _ADD.match(line):
            indent, name, *terms = match.groups()
            product = next((t for t in terms if t in products), "")
            if product:
                total = terms[terms[0] == product]
                added.add(int(products[product][0]))
                line = _accumulated(indent, name, total, *products[product], scale)
        lines.append(line)
    return "\n".join([*lines, *(d for n in sorted(added) for d in _declarations(n, scale))])


def _real_first(text: str) -> str:
    """LLVM IR whose parts of loaded bytes are made after all of these became floats."""
    loads: dict[str, tuple[int, int]] = {}  # name -> (line, elements)
    shuffles: dict[str, tuple[str, str]] = {}  # name -> (source, mask)
    lines: list[str] = []
    real: set[int] = set()
    for line in text.split("\n"):
        if line.startswith("define "):
            loads, shuffles = {}, {}
        if match := _LOAD.match(line):
            loads[match[1]] = (len(lines), int(match[2]))
        elif match := _SHUFFLE.match(line):
            shuffles[match[1]] = (match[3], match[4])
        elif match := _REAL.match(line):
            indent, name, count, operand = match.groups()
            source, mask = shuffles.get(operand, ("", ""))
            if source in loads:
                position, n = loads[source]
                vector, whole = f"<{n} x float>", f"%real.{source[1:]}"
                if position not in real:
                    real.add(position)
                    lines[position] += f"\n{indent}{whole} = sitofp <{n} x i8> {source} to {vector}"
                line = f"{indent}{name} = shufflevector {vector} {whole}, {vector} poison, "
                line += f"<{count} x i32> {mask}"
        lines.append(line)
    return "\n".join(lines)


def _sext(elements: int, source: str) -> str:
    return f"sext <{elements} x i8> {source} to <{elements} x i16>"


def _accumulated(
    indent: str, name: str, total: str, count: str, left: str, right: str, scale: int
) -> str:
    """total + left * right by the intrinsic."""
    n, key = int(count), name[1:]
    lines, operands = [], []
    for part, operand, bits in (("total", total, 32), ("left", left, 16), ("right", right, 16)):
        vector, scalable = f"<{n} x i{bits}>", f"<vscale x {n // scale} x i{bits}>"
        lines.append(
            f"{indent}%{part}.{key} = call {scalable} {_INSERT}.nxv{n // scale}i{bits}.v{n}i{bits}"
            f"({scalable} poison, {vector} {operand}, i64 0)"
        )
        operands.append(f"{scalable} %{part}.{key}")
    sums = f"<vscale x {n // scale} x i32>"
    lines += [
        f"{indent}%sum.{key} = call {sums} {_intrinsic(n // scale)}"
        f"({', '.join(operands)}, i64 {n}, i64 3)",
        f"{indent}{name} = call <{n} x i32> {_EXTRACT}.v{n}i32.nxv{n // scale}i32"
        f"({sums} %sum.{key}, i64 0)",
    ]
    return "\n".join(lines)


def _intrinsic(k: int) -> str:
    return f"@llvm.riscv.vwmacc.nxv{k}i32.nxv{k}i16.nxv{k}i16.i64"


def _declarations(n: int, scale: int) -> list[str]:
    """Of what adds products of n elements."""
    k = n // scale
    sums, half = f"<vscale x {k} x i32>", f"<vscale x {k} x i16>"
    return [
        f"declare {sums} {_intrinsic(k)}({sums}, {half}, {half}, i64, i64 immarg)",
        f"declare {sums} {_INSERT}.nxv{k}i32.v{n}i32({sums}, <{n} x i32>, i64 immarg)",
        f"declare {half} {_INSERT}.nxv{k}i16.v{n}i16({half}, <{n} x i16>, i64 immarg)",
        f"declare <{n} x i32> {_EXTRACT}.v{n}i32.nxv{k}i32({sums}, i64 immarg)",
    ]


def _copied(indent: str, name: str, count: str, scalar: str) -> str:
    vector, key = f"<{count} x i32>", name[1:]
    return "\n".join(
        [
            f"{indent}%wide.{key} = sext {scalar} to i32",
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
