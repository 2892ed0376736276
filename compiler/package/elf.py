"""A small ELF reader: symbols and needed libraries of little-endian object files."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SHT_SYMTAB, _SHT_DYNAMIC, _SHT_DYNSYM, _SHT_NOBITS = 2, 6, 11, 8
_STB_LOCAL, _STB_WEAK = 0, 2
_STT_OBJECT = 1
_DT_NEEDED = 1


_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


@dataclass(frozen=True)
class Symbol:
    """One entry of a symbol table."""

    name: str
    defined: bool
    local: bool
    weak: bool
    is_data: bool
    size: int

    @property
    def is_open(self) -> bool:
        """Whether another file must give it its meaning: undefined, or a weak null pointer."""
        return not self.defined or (self.weak and self.is_data)


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


def _sections(data: bytes) -> tuple[bool, list[_Section]]:
    if data[:4] != b"\x7fELF" or len(data) < 52 or data[5] != 1:
        raise ValueError("not a little-endian ELF file")
    wide = data[4] == 2
    if wide:
        (start,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
    else:
        (start,) = struct.unpack_from("<I", data, 32)
        size, count = struct.unpack_from("<HH", data, 46)
    if start and not count:  # more than 65,279 sections: the number is in the first header
        (count,) = struct.unpack_from("<Q" if wide else "<I", data, start + (32 if wide else 20))
    sections = []
    for i in range(count):
        at = start + i * size
        if wide:
            _, kind, _, _, offset, nbytes, link = struct.unpack_from("<IIQQQQI", data, at)
        else:
            _, kind, _, _, offset, nbytes, link = struct.unpack_from("<IIIIIII", data, at)
        sections.append(_Section(kind, offset, nbytes, link))
    return wide, sections


def _string(data: bytes, table: _Section, at: int) -> str:
    start = table.offset + at
    return data[start : data.index(b"\0", start)].decode("utf-8", "replace")


def read_symbols(data: bytes, *, dynamic: bool = False) -> list[Symbol]:
    """Symbols of an object file, or of the dynamic symbol table of a shared library.

    Raises:
        ValueError: not a little-endian ELF file.
    """
    wide, sections = _sections(data)
    symbols = []
    for section in sections:
        if section.kind != (_SHT_DYNSYM if dynamic else _SHT_SYMTAB):
            continue
        step = 24 if wide else 16
        for at in range(section.offset + step, section.offset + section.size, step):
            if wide:
                name, info, _, index, _, size = struct.unpack_from("<IBBHQQ", data, at)
            else:
                name, _, size, info, _, index = struct.unpack_from("<IIIBBH", data, at)
            symbols.append(
                Symbol(
                    name=_string(data, sections[section.link], name),
                    defined=index != 0,
                    local=info >> 4 == _STB_LOCAL,
                    weak=info >> 4 == _STB_WEAK,
                    is_data=info & 15 == _STT_OBJECT,
                    size=size,
                )
            )
    return symbols


def read_needed(data: bytes) -> list[str]:
    """Names of the libraries that a shared library needs.

    Raises:
        ValueError: not a little-endian ELF file.
    """
    wide, sections = _sections(data)
    needed = []
    for section in sections:
        if section.kind != _SHT_DYNAMIC:
            continue
        step, form = (16, "<qQ") if wide else (8, "<iI")
        for at in range(section.offset, section.offset + section.size, step):
            tag, value = struct.unpack_from(form, data, at)
            if tag == _DT_NEEDED:
                needed.append(_string(data, sections[section.link], value))
    return needed


def read_arch(data: bytes) -> str:
    """The architecture of an ELF file by the names of ``Target.arch``, from its first 64 bytes.

    Raises:
        ValueError: not a little-endian ELF file.
    """
    if data[:4] != b"\x7fELF" or len(data) < 52 or data[5] != 1:
        raise ValueError("not a little-endian ELF file")
    (machine,) = struct.unpack_from("<H", data, 18)
    return _MACHINES.get(machine, f"ELF machine {machine}")
