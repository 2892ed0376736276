"""What the innermost loops of generated assembly do: multiply, accumulate, spill."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.schedules.stored_values import Flow

_LABEL = re.compile(r"^(\.L\w+):")
_BRANCH = re.compile(r"^\s+(?:j\w+|b\w*(?:\.\w+)?|cbn?z|tbn?z)\s+(?:.*[\s,])?(\.L\w+)\s*$")
_MAC = {
    "x86_64": r"vfn?m(?:add|sub)\w*[ps]s|v?mul[ps]s",
    "aarch64": r"fml[as]|fn?m(?:add|sub)",
    "arm": r"v(?:fm|ml)[as](?:\.f32)?",
    "riscv64": r"vfn?m(?:acc|sac|add|sub)\.\w+|fn?m(?:add|sub)\.s",
}
# The base register of an operand in memory that has no index.
_OPERAND = {
    "x86_64": r"(?<![\w*])-?\w*\(%(r\w+)\)",
    "aarch64": r"\[(x\d+|sp)(?:, #-?\w+)?\]",
    "arm": r"\[(r\d+|lr|sp)(?:, #-?\w+|:\d+)?\]|^\s+v?(?:ld|st)m\w*\s+(\w+)!?,",
    "riscv64": r"(?<![\w)])-?\w*\((\w+)\)",
}
# Instructions that write a register, its name in place of {0}.
_WRITES = {
    "x86_64": r"^\s+(?!cmp|test)\w+\s.*%{0}$",
    "aarch64": r"^\s+(?!st|cmp|cb|tb)\w+\s+{0}\b|\[{0}(?:, #-?\w+)?\]!|\[{0}\], ",
    "arm": r"^\s+(?!st|vst|cmp)\w+\s+{0}\b|\[{0}[^]]*\]!|\[{0}[^]]*\], |m\w*\s+{0}!",
    "riscv64": r"^\s+(?!s[bhwd]\s|v|fs|b)\w[\w.]*\s+{0}\b",
}
_REGISTER = {
    "x86_64": r"%(r\w+)",
    "aarch64": r"\b(x\d+|sp)\b",
    "arm": r"\b(r\d+|lr|sp)\b",
    "riscv64": r"\b([ast]\d+|sp)\b",
}
# Instructions that write floats or vectors to memory.
_STORE = {
    "x86_64": r"%[xyz]mm\d+, .*\)$",
    "aarch64": r"^\s+st\w*\s+(?:[qdsv]\d|\{)",
    "arm": r"^\s+vst",
    "riscv64": r"^\s+(?:fs|vs)",
}
_LOAD = {
    "x86_64": r"^\s+(?!lea).*\(",
    "aarch64": r"^\s+ld",
    "arm": r"^\s+v?ld",
    "riscv64": r"\(",
}


@dataclass(frozen=True)
class InnerLoop:
    """An innermost loop that multiplies and accumulates.

    Args:
        instructions: how many the loop has.
        macs: how many of these multiply (and accumulate).
        stack: those that read or write the same place of the stack in all rounds. A buffer on the
            stack that the loop walks through does not count.
        spills: whether some of ``stack`` write floats that the loop computed: accumulators, or
            what became of them. Else they bring what was loaded, in this round or before the loop
            (inputs, weights, constants), at the price of reading it where it lay before, or hold
            addresses and counters.
    """

    instructions: int
    macs: int
    stack: tuple[str, ...]
    spills: bool

    @property
    def share(self) -> float:
        """Of all instructions, those that multiply."""
        return self.macs / self.instructions


def inner_loops(text: str, arch: str) -> list[InnerLoop]:
    """The innermost loops with a multiply-accumulate, in order.

    Args:
        text: assembly as LLVM writes it (AT&T syntax for x86-64).
        arch: a key of ``Target.arch``.
    """
    lines = _whole_registers(text, arch).splitlines()
    labels: dict[str, int] = {}
    spans: dict[int, int] = {}  # of loops: from the label to the last branch back
    for i, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = i
        elif (branch := _BRANCH.match(line)) and branch[1] in labels:
            spans[labels[branch[1]]] = i
    loops = []
    for start, end in spans.items():
        if any(start < other <= end for other in spans):
            continue
        loop = _Loop(lines, start, end, arch)
        body = [i for i in range(start, end + 1) if _is_instruction(lines[i])]
        macs = sum(bool(re.match(rf"\s+(?:{_MAC[arch]})\s", lines[i])) for i in body)
        if macs:
            stack = [i for i in body if loop.uses_stack(i)]
            flow = Flow(lines, start, end, arch)
            spills = any(re.search(_STORE[arch], lines[i]) and flow.computes(i) for i in stack)
            texts = tuple(lines[i].strip() for i in stack)
            loops.append(InnerLoop(len(body), macs, texts, spills))
    return loops


def _whole_registers(text: str, arch: str) -> str:
    """Calls halves of general registers by the names of the registers."""
    if arch == "aarch64":
        return re.sub(r"\bw(\d+)\b", r"x\1", text)
    if arch == "x86_64":
        return re.sub(r"%e(\w\w)\b|%(r\d+)d\b", lambda m: f"%{m[2] or 'r' + m[1]}", text)
    return text


def _is_instruction(line: str) -> bool:
    return line[:1] in " \t" and line.strip()[:1] not in ("", ".", "#", "@", ";", "/")


@dataclass(frozen=True)
class _Loop:
    lines: list[str]
    start: int
    end: int
    arch: str

    def uses_stack(self, at: int) -> bool:
        """Whether the instruction reads or writes a place of the stack, the same in all rounds."""
        if not re.search(_OPERAND[self.arch], self.lines[at]) or "\tlea" in self.lines[at]:
            return False
        bases = {b for m in re.finditer(_OPERAND[self.arch], self.lines[at]) for b in m.groups()}
        return any(self._is_from_stack(base, at) for base in bases if base)

    def _is_from_stack(self, register: str, at: int) -> bool | None:
        """Whether the register's value before line ``at`` comes from the stack pointer.

        None where it changes from round to round, or is unknown.
        """
        if register in ("sp", "rsp"):
            return True
        written = re.compile(_WRITES[self.arch].format(register))
        inside = at > self.start
        before = range(at - 1, self.start if inside else -1, -1)
        writer = next((i for i in before if written.search(self.lines[i])), None)
        if writer is None and inside:
            if any(written.search(line) for line in self.lines[at : self.end + 1]):
                return None
            return self._is_from_stack(register, self.start)
        if writer is None or re.search(_LOAD[self.arch], self.lines[writer]):
            return None if inside else False
        found = [self._is_from_stack(r, writer) for r in self._sources(writer)]
        return None if inside and None in found else any(found)

    def _sources(self, at: int) -> list[str]:
        """Registers that the instruction reads."""
        line = self.lines[at]
        registers = re.findall(_REGISTER[self.arch], line)
        if self.arch != "x86_64":
            return registers[1:]
        return registers[:-1] if re.match(r"\s+(mov|lea)", line) else registers
