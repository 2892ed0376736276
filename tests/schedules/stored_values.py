"""Where a value that a loop stores comes from: computed in the loop, or only loaded.

Reaching definitions over the loop's control flow. A value counts as loaded only if every way to
the store passes a load of it, through moves and shuffles alone, or no instruction of the loop
writes it at all. Everything else is computed: results of multiply-adds, of sums and maxima, of
instructions unknown here, and vectors of RISC-V, which may be parts of a register group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_VECTOR = {
    "x86_64": r"%[xyz]mm(\d+)",
    "aarch64": r"\b[vqdsh](\d+)\b",
    "arm": r"\b([qds])(\d+)\b",
    "riscv64": r"\b(f[ast]\d+|v\d+)\b",
}
_LOADS = {
    "x86_64": r"v?mov(?:[au]p[sd]|dq[au]\w*|s[sd]|[dq]|ddup)|v?broadcast\w+",
    "aarch64": r"ld[ru]\w*|ldn?p|ld[1-4]r?",
    "arm": r"vldr|vld[1-4](?:\.\d+)?|vldm\w*",
    "riscv64": r"fl[wd]",
}
# Of one register into another, and shuffles of registers.
_MOVES = {
    "x86_64": r"v?mov(?:[au]p[sd]|dq[au]\w*|s[sd]|[hl]{2}ps|s[hl]dup)|v?p?shuf\w+"
    r"|v?unpck\w+|v?insertps|v?blend\w+|vbroadcast\w+|vperm\w+|vextractf\w+|vinsertf\w+",
    "aarch64": r"f?mov|dup|ins|ext|rev64|zip[12]|uzp[12]|trn[12]",
    "arm": r"vmov(?:\.f(?:32|64))?|vorr|vdup\.32|vext\.\d+",
    "riscv64": r"fmv\.[sd]",
}
# Moves that read nothing of what their destination held.
_WHOLE_MOVES = r"mov[au]p[sd]|movdq[au]|pshufd|v\w+"
_NEVER_WRITE = {
    "x86_64": r"v?u?comis[sd]|v?p?test\w*|cmp[bwlq]?|j\w+",
    "aarch64": r"st\w+|fcmpe?|b|b\.\w+|cbn?z|tbn?z|prfm",
    "arm": r"vst\w*(?:\.\d+)?|vcmpe?\S*|b\w*",
    "riscv64": r"fs[wd]|vs(?:e\d+|\d+r)\.v|b\w+",
}
_JUMP = {"x86_64": r"jmp\w*|ret\w*", "aarch64": r"b|ret", "arm": r"b|bx", "riscv64": r"j|ret"}
_COMMENT = {"x86_64": r"#", "aarch64": r"//", "arm": r"@", "riscv64": r"#"}
_LABEL = re.compile(r"(\.L\w+):")
_TARGET = re.compile(r"(\.L\w+)\s*$")


@dataclass(frozen=True)
class Instruction:
    """What an instruction does to float and vector registers.

    Args:
        writes: units of registers: overlapping names share units.
        reads: the units that it only moves; None where it computes what it writes.
    """

    writes: frozenset[str] = frozenset()
    reads: frozenset[str] | None = None


def parse(line: str, arch: str) -> Instruction | None:
    """An instruction of LLVM's assembly; None for a label, a directive or a comment."""
    words = re.split(_COMMENT[arch], line)[0].split()
    if line[:1] not in (" ", "\t") or not words or not words[0][0].isalpha():
        return None
    name, operands = words[0], " ".join(words[1:])
    if re.fullmatch(_NEVER_WRITE[arch], name):
        return Instruction()
    written, rest = _split(name, operands, arch)
    writes = frozenset(units(written, arch))
    if "{%k" in written and "{z}" not in written:
        return Instruction(writes)
    in_memory = arch != "x86_64" or "(" in rest
    if in_memory and re.fullmatch(_LOADS[arch], name):
        return Instruction(writes, writes if re.search(r"\[\d", written) else frozenset())
    reads = frozenset(units(rest, arch))
    merges = name == "vorr" and len({operand.strip() for operand in rest.split(",")}) > 1
    if not reads or merges or "(" in rest or not re.fullmatch(_MOVES[arch], name):
        return Instruction(writes)
    keeps = not re.fullmatch(_WHOLE_MOVES, name) if arch == "x86_64" else "[" in written
    return Instruction(writes, reads | writes if keeps else reads)


def stored(line: str, arch: str) -> set[str]:
    """The units that a store writes to memory."""
    operands = " ".join(line.split()[1:])
    return set(units(re.split(r"(?<!\w)-?\w*\(|\[", operands)[0], arch))


def units(text: str, arch: str) -> Iterator[str]:
    """The float and vector registers in a text; those that overlap have names in common."""
    for match in re.finditer(_VECTOR[arch], text):
        if arch != "arm":
            yield match[1]
            continue
        size = {"q": 4, "d": 2, "s": 1}[match[1]]
        yield from (f"s{size * int(match[2]) + i}" for i in range(size))


def _split(name: str, operands: str, arch: str) -> tuple[str, str]:
    """The operands that are written, and the others."""
    if arch == "x86_64":
        rest, _, last = operands.rpartition(",")
        return (last, rest) if last.strip().startswith("%") else ("", operands)
    if name.startswith("vldm"):
        rest, _, written = operands.partition("{")
        return written, rest
    if match := re.match(r"\{[^}]*\}(?:\[\d+\])?", operands):
        return match[0], operands[match.end() :]
    count = 2 if arch == "aarch64" and name in ("ldp", "ldnp") else 1
    if name in ("vswp", "vtrn.32", "vzip.32", "vuzp.32"):
        count = 2
    parts = operands.split(",")
    return ",".join(parts[:count]), ",".join(parts[count:])


@dataclass
class Flow:
    """A loop's lines and the ways through them.

    Args:
        lines: of the whole text.
        start, end: the loop's first line, a label, and its last, a branch to it.
    """

    lines: list[str]
    start: int
    end: int
    arch: str
    _before: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        span = range(self.start, self.end + 1)
        labels = {m[1]: i for i in span if (m := _LABEL.match(self.lines[i]))}
        self._before = {i: [] for i in span}
        for i in span:
            words = self.lines[i].split()
            target = _TARGET.search(self.lines[i])
            if self.lines[i][:1] in " \t" and target and target[1] in labels:
                self._before[labels[target[1]]].append(i)
            jumps = words and re.fullmatch(_JUMP[self.arch], words[0])
            if not jumps and i < self.end:
                self._before[i + 1].append(i)

    def computes(self, at: int) -> bool:
        """Whether what the store in line ``at`` writes was computed in the loop."""
        values = stored(self.lines[at], self.arch)
        if not values or any(unit.startswith("v") for unit in values):
            return True
        pending = [(i, unit) for unit in values for i in self._before[at]]
        seen = set(pending)
        while pending:
            line, unit = pending.pop()
            instruction = parse(self.lines[line], self.arch)
            wanted = {unit}
            if instruction and unit in instruction.writes:
                if instruction.reads is None:
                    return True
                wanted = set(instruction.reads)
            for step in ((i, u) for u in wanted for i in self._before[line]):
                if step not in seen:
                    seen.add(step)
                    pending.append(step)
        return False
