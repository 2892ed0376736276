"""How far an address moves in one round of a loop, read from the text of LLVM IR."""

from __future__ import annotations

import re

NAME = re.compile(r"%[\w.$-]+")

_DEFINITION = re.compile(r"^ +(%\S+) = ([a-z]+) (.*?)(?:, ![a-z]+ !.*)?$")
_COUNTER = re.compile(r"phi i64 \[ 0, %(\S+) \], \[ (%\S+), %(\S+) \]")
_FLAGS = r"(?:(?:nuw|nsw|nneg|disjoint|inbounds) )*"
_CAST = re.compile(rf"{_FLAGS}i\d+ (%\S+) to i\d+$")
_ARITHMETIC = re.compile(rf"{_FLAGS}i\d+ (\S+), (\S+)$")
_ADDRESS = re.compile(rf"{_FLAGS}(i8|float|<4 x float>), ptr (%\S+), i\d+ (\S+)$")
_BYTES = {"i8": 1, "float": 4, "<4 x float>": 16}


class Loop:
    """A block that branches back to itself and counts its rounds from 0.

    Attributes:
        before: label of the block that enters the loop; None where the block is no such loop.
    """

    def __init__(self, label: str, lines: list[str]) -> None:
        self._definitions: dict[str, tuple[str, str]] = {}
        self._counter = ""
        self.before: str | None = None
        for line in lines:
            if match := _DEFINITION.match(line):
                self._definitions[match[1]] = (match[2], match[3])
        for name, (operation, rest) in self._definitions.items():
            phi = _COUNTER.match(f"{operation} {rest}")
            if phi and phi[3] == label and self._adds_one(phi[2], name):
                self._counter, self.before = name, phi[1]

    def _adds_one(self, name: str, counter: str) -> bool:
        operation, rest = self._definitions.get(name, ("", ""))
        return operation == "add" and rest.endswith(f"i64 {counter}, 1")

    def step(self, value: str) -> int | None:
        """What each round adds to a value (bytes, for an address); None where that is not known.

        Indices that are in range in each round do not overflow between two, whatever their width.
        """
        if value == self._counter:
            return 1
        if value not in self._definitions:
            return 0
        operation, rest = self._definitions[value]
        if match := _ADDRESS.match(rest):
            return self._sum(match[2], match[3], _BYTES[match[1]])
        if operation in ("sext", "zext", "trunc") and (match := _CAST.match(rest)):
            return self.step(match[1])
        match = _ARITHMETIC.match(rest)
        if match and operation in ("add", "or"):
            return self._sum(match[1], match[2], 1) if operation == "add" else None
        if match and operation in ("mul", "shl") and match[2].isdigit():
            step = self.step(match[1])
            factor = int(match[2])
            return None if step is None else step * factor if operation == "mul" else step << factor
        return None

    def _sum(self, left: str, right: str, scale: int) -> int | None:
        steps = self.step(left), self.step(right)
        return None if steps[0] is None or steps[1] is None else steps[0] + scale * steps[1]

    def start(self, value: str, prefix: str) -> tuple[list[str], str]:
        """Lines that compute the value of the first round before the loop, and its name there.

        Args:
            prefix: begins the new names.
        """
        lines: list[str] = []
        names = {self._counter: "0"}

        def visit(name: str) -> str:
            if name not in names and name in self._definitions:
                operation, rest = self._definitions[name]
                for used in NAME.findall(rest):
                    visit(used)
                names[name] = f"{prefix}.{len(lines)}"
                changed = NAME.sub(lambda m: names.get(m[0], m[0]), rest)
                lines.append(f"  {names[name]} = {operation} {changed}")
            return names.get(name, name)

        result = visit(value)
        return lines, result
