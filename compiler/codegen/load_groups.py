"""AArch64's loads of three or four vectors at once, which LLVM does not choose by itself.

``ld1`` fills up to four registers with what lies together. In the optimised LLVM IR it replaces
loads that follow each other, in the code and in memory, of vectors that only multiply single lanes
or are used lane by lane: the weights and pixels of a convolution.

    before:  %0 = load <4 x float>, ptr %p
             %1 = getelementptr i8, ptr %p, i64 16
             %2 = load <4 x float>, ptr %1
             ...
    after:   call void @llvm.codeview.annotation(...)
             %g = call { 4 x <4 x float> } @llvm.aarch64.neon.ld1x4.v4f32.p0(ptr %p)
             %g.0 = extractvalue %g, 0
             ...

The annotation becomes a label without code. It ends a region of LLVM's scheduler, which would
otherwise move all groups of a block to its start, where there are no registers for them.

Groups whose addresses have one base are chained: each takes its address from the one before, so
that ``ld1`` increments it on the way, and the first one of a round of a loop from the last one of
the round before. An empty piece of assembly hides each sum from LLVM, which would fold it with the
next one, and each increment that is no constant of the instruction, so that a register holds it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from compiler.codegen.loop_addresses import NAME, Loop

VECTOR_BYTES = 16
# Vectors of 16 bytes as LLVM writes them, and how it calls them in the names of intrinsics.
TYPES = {"<4 x float>": "v4f32", "<8 x half>": "v8f16"}
# Registers of a function that may hold increments.
MAX_INCREMENTS = 8

_VECTOR = "|".join(TYPES)
_LOAD = re.compile(rf"^ +(%\S+) = load ({_VECTOR}), ptr (%[^\s,]+),")
_OFFSET = re.compile(
    r"^ +(%\S+) = getelementptr (?:inbounds )?(?:nuw )?i8, ptr (%[^\s,]+), i64 (-?\d+)"
)
_INDEXED = re.compile(r"^ +(%\S+) = getelementptr (?:inbounds )?(?:nuw )?(.*?)(?:, !.*)?$")
# What may stand between loads of a group: nothing of it writes to memory.
_ADDRESS = re.compile(r"^ +(?:%\S+ = (?:getelementptr|shl|mul|add|or) |#dbg_)")
_SPLAT = re.compile(
    r"(%\S+) = shufflevector <\d+ x (?:float|half)> (%\S+), <\d+ x (?:float|half)> poison, "
    r"<[48] x i32> (?:zeroinitializer|<i32 (\d+)(?:, i32 \3)+>)"
)
_MULTIPLY = re.compile(
    rf"@llvm\.fmuladd\.v(?:4f32|8f16)\((?:{_VECTOR}) (%\S+), (?:{_VECTOR}) (%\S+), "
)
_LABEL = re.compile(r"^([^\s:]+):")
_NOTE = '!{!"group"}'


@dataclass(frozen=True)
class _Load:
    """A load of a vector, from an offset to a base."""

    result: str
    type: str
    address: str
    base: str
    offset: int


@dataclass
class _Chain:
    """Groups loaded from one base in one block.

    Args:
        first, first_lines: the first group's load; the lines that use its address.
        size: bytes of the last group; ``line`` adds them to its ``address``.
        reached: offset behind the last group.
        next: name of the address behind the last group.
    """

    first: _Load
    first_lines: tuple[int, int]
    size: int
    line: int
    address: str
    reached: int
    next: str


def group_loads(text: str) -> str:
    """LLVM IR in which one instruction loads three or four vectors wherever it can."""
    parts = re.split(r"^(?=define )|(?<=^}$)", text, flags=re.MULTILINE)
    kinds: set[tuple[int, str]] = set()
    changed = [_Function(p, kinds).text() if p.startswith("define ") else p for p in parts]
    return "".join([*changed, *_declarations(kinds)]) if kinds else text


class _Function:
    """One function's lines, rewritten."""

    def __init__(self, text: str, kinds: set[tuple[int, str]]) -> None:
        self._source = text.split("\n")
        self._kinds = kinds
        self._lines: list[str] = []
        self._renamed: dict[str, str] = {}
        # Of each address: what it is computed from, and the constant added to that.
        self._offsets: dict[str, tuple[str, int]] = {}
        self._chains: dict[str, _Chain] = {}  # of the block, by base
        self._block, self._label = 0, ""
        self._increments: dict[int, str] = {}
        self._groups = 0
        self._factors = _factors(self._source)

    def text(self) -> str:
        """The function with its groups."""
        run: list[_Load] = []
        for line in self._source:
            self._note_address(line)
            load = self._read(line)
            if load is not None and load.result in self._factors:
                here = (load.type, load.base, load.offset - VECTOR_BYTES)
                if run and here != (run[-1].type, run[-1].base, run[-1].offset):
                    run = self._close(run)
                run.append(load)
            elif run and not _ADDRESS.match(line):
                run = self._close(run)
            if label := _LABEL.match(line):
                self._finish_block()
                self._block, self._label = len(self._lines), label[1]
            self._lines.append(line)
        self._finish_block()
        self._set_increments()
        return "\n".join(NAME.sub(lambda m: self._renamed.get(m[0], m[0]), x) for x in self._lines)

    def _note_address(self, line: str) -> None:
        if place := _OFFSET.match(line):
            base, offset = self._place(place[2])
            self._offsets[place[1]] = (base, offset + int(place[3]))
        elif address := _INDEXED.match(line):
            # LLVM may compute the same address twice.
            self._offsets[address[1]] = (address[2], 0)

    def _place(self, address: str) -> tuple[str, int]:
        return self._offsets.get(address, (address, 0))

    def _read(self, line: str) -> _Load | None:
        match = _LOAD.match(line)
        return _Load(match[1], match[2], match[3], *self._place(match[3])) if match else None

    def _close(self, run: list[_Load]) -> list[_Load]:
        """Replace the loads of a run by groups; returns an empty run."""
        sizes = _sizes(len(run))
        grouped = run[: sum(sizes)]
        gone = tuple(f"  {load.result} = load " for load in grouped)
        if gone:
            self._lines = [line for line in self._lines if not line.startswith(gone)]
        for size in sizes:
            members, grouped = grouped[:size], grouped[size:]
            group = self._write_group(members[0], size)
            self._renamed |= {load.result: f"{group}.{i}" for i, load in enumerate(members)}
        return []

    def _write_group(self, first: _Load, size: int) -> str:
        """Load a group; returns the name before the numbers of its members."""
        group, address = f"%group{self._groups}", first.address
        self._groups += 1
        self._kinds.add((size, first.type))
        struct = _struct(size, first.type)
        chain = self._chains.get(first.base)
        if chain and self._advance(chain, first.offset - chain.reached):
            address = chain.next
        else:
            chain = None
        nbytes = size * VECTOR_BYTES
        self._lines += [
            f"  call void @llvm.codeview.annotation(metadata {_NOTE})",
            f"  {group} = call {struct} @{_name(size, first.type)}(ptr {address})",
            *(f"  {group}.{i} = extractvalue {struct} {group}, {i}" for i in range(size)),
            _sum(f"{group}.sum", address, str(nbytes)),
            f'  {group}.next = call ptr asm "", "=r,0"(ptr {group}.sum)',
        ]
        last = len(self._lines) - 2
        self._chains[first.base] = _Chain(
            chain.first if chain else first,
            chain.first_lines if chain else (last - size - 1, last),
            nbytes,
            last,
            address,
            first.offset + nbytes,
            f"{group}.next",
        )
        return group

    def _advance(self, chain: _Chain, further: int) -> bool:
        """Move the address behind a chain's last group; False where no register is left for it."""
        if further:
            nbytes = chain.size + further
            if nbytes not in self._increments and len(self._increments) == MAX_INCREMENTS:
                return False
            increment = self._increments.setdefault(nbytes, f"%step{len(self._increments)}")
            name = chain.next.removesuffix(".next") + ".sum"
            self._lines[chain.line] = _sum(name, chain.address, increment)
        return True

    def _finish_block(self) -> None:
        """Carry addresses from round to round where the block is a loop."""
        loop = Loop(self._label, self._lines[self._block :]) if self._chains else None
        entry = self._end_of(loop.before) if loop and loop.before else None
        if loop and entry:
            carried = [self._carry(loop, chain) for chain in self._chains.values()]
            self._lines[self._block + 1 : self._block + 1] = [
                x for phis, _ in carried for x in phis
            ]
            self._lines[entry:entry] = [line for _, starts in carried for line in starts]
        self._chains.clear()

    def _carry(self, loop: Loop, chain: _Chain) -> tuple[list[str], list[str]]:
        """Chain the rounds; returns lines for the begin of the loop and for the end before it."""
        address = chain.first.address
        step = loop.step(address)
        if not step or not self._advance(chain, step + chain.first.offset - chain.reached):
            return [], []
        carried = chain.next.removesuffix(".next") + ".carried"
        for at in chain.first_lines:
            self._lines[at] = re.sub(
                rf"ptr {re.escape(address)}(?=[,)])", f"ptr {carried}", self._lines[at]
            )
        starts, start = loop.start(address, chain.next.removesuffix(".next") + ".start")
        values = f"[ {start}, %{loop.before} ], [ {chain.next}, %{self._label} ]"
        return [f"  {carried} = phi ptr {values}"], starts

    def _end_of(self, label: str) -> int | None:
        """The line of the branch that ends an earlier block."""
        lines = self._lines[: self._block]
        begin = next((i for i, line in enumerate(lines) if line.startswith(f"{label}:")), None)
        if begin is None:
            return None
        end = next((i for i in range(begin + 1, len(lines)) if _LABEL.match(lines[i])), len(lines))
        return next((i for i in range(begin, end) if lines[i].startswith("  br ")), None)

    def _set_increments(self) -> None:
        """Put the increments into registers where the function begins."""
        begin = next(i for i, line in enumerate(self._lines) if _LABEL.match(line)) + 1
        self._lines[begin:begin] = [
            f'  {name} = call i64 asm "", "=r,0"(i64 {nbytes})'
            for nbytes, name in self._increments.items()
        ]


def _factors(lines: list[str]) -> set[str]:
    """Names of vectors used for nothing but products of a vector and one lane of another."""
    code = [line for line in lines if "#dbg_" not in line]
    uses = Counter(name for line in code for name in NAME.findall(line))
    splats = {match[1]: match[2] for line in code if (match := _SPLAT.search(line))}
    factors = Counter(splats.values())
    for line in code:
        if match := _MULTIPLY.search(line):
            left, right = match.groups()
            factors.update([left] if right in splats else [right] if left in splats else [])
    return {name for name, count in factors.items() if uses[name] == count + 1}


def _sizes(vectors: int) -> list[int]:
    """How many of so many neighbouring vectors each group takes; one or two may be left over."""
    threes = min(-vectors % 4, vectors // 3)
    return [4] * ((vectors - 3 * threes) // 4) + [3] * threes


def _sum(result: str, address: str, nbytes: str) -> str:
    return f"  {result} = getelementptr i8, ptr {address}, i64 {nbytes}"


def _declarations(kinds: set[tuple[int, str]]) -> list[str]:
    return [
        "\ndeclare void @llvm.codeview.annotation(metadata)\n",
        *(f"declare {_struct(*kind)} @{_name(*kind)}(ptr)\n" for kind in sorted(kinds)),
    ]


def _struct(size: int, vector: str) -> str:
    return "{ " + ", ".join([vector] * size) + " }"


def _name(size: int, vector: str) -> str:
    return f"llvm.aarch64.neon.ld1x{size}.{TYPES[vector]}.p0"
