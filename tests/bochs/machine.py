"""Runs a package for x86-64 in Bochs, on the bare machine: CPUs that this one is not."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import EdgeccError
from compiler.package.header import RUNTIME_DIR
from compiler.package.link import zig
from compiler.package.manifest import Package
from compiler.package.runner import Runner, problem

HERE = Path(__file__).parent
_MARK = b"EDGC"
_CONFIG = """\
config_interface: textconfig
display_library: term
plugin_ctrl: speaker=0, gameport=0, parallel=0, serial=0, biosdev=0
sound: driver=dummy
cpu: model={cpu}, reset_on_triple_fault=0
memory: guest={megabytes}, host={megabytes}
romimage: file=guest.rom
optramimage1: file=image, address=0x100000
port_e9_hack: enabled=1
panic: action=fatal
error: action=ignore
info: action=ignore
log: log
"""


class BochsRunner(Runner):
    """Verifies a package on a modelled CPU; one thread does the work of all.

    Args:
        cpu: a name of ``bochs -help cpu``; by default one with AVX-512 F, BW, CD, DQ and VL, and
            with VNNI if the package needs it.
    """

    def __init__(self, package: Package, cpu: str = "") -> None:
        if shutil.which("bochs") is None:
            pytest.skip("needs the Debian packages bochs and bochs-term")
        vnni = "avx512vnni" in package.manifest["target"]["required"]
        self.package = package
        self.cpu = cpu or ("corei7_icelake_u" if vnni else "corei7_skylake_x")
        self.prefix = ["bochs"]

    def _run(
        self,
        work: Path,
        inputs: Mapping[str, np.ndarray],
        mode: str,
        threads: int,
        rest: Sequence[str],
        timeout: float | None,
    ) -> subprocess.CompletedProcess[str]:
        assert mode == "verify", "a modelled CPU has no times"
        self._write_inputs(work, inputs)
        nbytes = self._write_image(work, threads)
        (work / "bochsrc").write_text(_CONFIG.format(cpu=self.cpu, megabytes=4 + (nbytes >> 20)))
        (work / "guest.rom").write_bytes(guest_rom())
        done = subprocess.run(
            ["bochs", "-q", "-f", "bochsrc"],
            cwd=work,
            env={**os.environ, "TERM": "dumb"},
            input=b"continue\n",  # to the debugger, where Bochs has one
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        frames = list(_frames(done.stdout))
        if not frames or frames[-1][0] != "x":
            log = [line for line in (work / "log").read_text().splitlines() if "PANIC" in line]
            raise EdgeccError(f"{self.package.library}: {' '.join(log)}")
        Path(rest[0]).write_bytes(b"".join(data for kind, data in frames if kind == "o"))
        text = b"\n".join(data for kind, data in frames if kind == "e").decode()
        result = subprocess.CompletedProcess([], struct.unpack("<i", frames[-1][1])[0], "", text)
        if result.returncode:
            raise EdgeccError(f"{self.package.library}: {problem(result)}")
        return result

    def _write_image(self, work: Path, threads: int) -> int:
        """Writes what guest.c calls an image; returns how much memory it all takes, in bytes."""
        parts = [self.package.library.read_bytes(), (work / "in.bin").read_bytes()]
        at = [32, 32 + len(parts[0]), 32 + len(parts[0]) + len(parts[1])]
        head = struct.pack("<3Q8s", *at, str(threads).encode())
        (work / "image").write_bytes(head + b"".join(parts))
        outputs = 2 * sum(t.nbytes for t in self.package.outputs)
        return 2 * at[2] + outputs + int(self.package.manifest["arena"]["nbytes"])


def _frames(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What guest.c sent."""
    at = data.find(_MARK)
    while at >= 0 and data[at : at + 4] == _MARK:
        (size,) = struct.unpack_from("<I", data, at + 5)
        yield chr(data[at + 4]), data[at + 9 : at + 9 + size]
        at += 9 + size


@cache
def guest_rom() -> bytes:
    """boot.s, guest.c and the runner of every other machine."""
    flags = ["-mcpu=x86_64", "-O2", "-g0", "-std=gnu11", "-fno-pic", "-mno-red-zone"]
    flags += ["-fno-builtin", "-fno-stack-protector", f"-I{RUNTIME_DIR}"]
    link = ["-target", "x86_64-freestanding-none", "-nostdlib", "-static", "-fno-pie"]
    link += [f"-Wl,-T,{HERE / 'guest.ld'}", "boot.o", "guest.o", "runner.o", "-o", "guest.elf"]
    copy = [sys.executable, "-m", "ziglang", "objcopy", "-O", "binary", "guest.elf", "guest.rom"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for source in (HERE / "boot.s", HERE / "guest.c", RUNTIME_DIR / "runner.c"):
            zig(["-target", "x86_64-linux-musl", *flags, "-c", str(source)], work, keep=True)
        zig(link, work)
        subprocess.run(copy, cwd=work, check=True)
        return (work / "guest.rom").read_bytes()
