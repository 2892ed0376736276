"""Tiny guest programs without a C library: what they execute is what is written here."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from compiler.estimate.counts import Counts
from compiler.estimate.plugin import build_plugin, count
from compiler.package.link import zig
from compiler.target import Caches

CACHES = Caches(32768, 1 << 20, 0)

# architecture: zig target and CPU, emulator, a mark (3 integer instructions and the call), exit
_MACHINES = {
    "aarch64": (
        ("aarch64-linux-musl", "cortex_a76"),
        ("qemu-aarch64", "-cpu", "cortex-a76"),
        "mov x8, #167\n movz w0, #0x4743\n movk w0, #0x4544, lsl #16\n svc #0\n",
        "mov x0, #0\n mov x8, #93\n svc #0\n",
    ),
    "riscv64": (
        ("riscv64-linux-musl", "baseline_rv64+v"),
        ("qemu-riscv64", "-cpu", "rv64,v=true,vext_spec=v1.0,vlen=256,elen=64"),
        "li a7, 167\n lui a0, 0x45444\n addiw a0, a0, 0x743\n ecall\n",
        "li a0, 0\n li a7, 93\n ecall\n",
    ),
    "arm": (
        ("arm-linux-musleabihf", "cortex_a7"),
        ("qemu-arm", "-cpu", "cortex-a7"),
        "mov r7, #172\n movw r0, #0x4743\n movt r0, #0x4544\n svc #0\n",
        "mov r0, #0\n mov r7, #1\n svc #0\n",
    ),
    "x86_64": (
        ("x86_64-linux-musl", "x86_64_v3"),
        ("qemu-x86_64", "-cpu", "max"),
        "mov $157, %eax\n mov $0x45444743, %edi\n xor %esi, %esi\n syscall\n",
        "mov $60, %eax\n xor %edi, %edi\n syscall\n",
    ),
}


def run(
    arch: str,
    bodies: Sequence[str],
    folder: Path,
    caches: Caches = CACHES,
    *,
    prepare: str = "",
) -> list[Counts]:
    """Counts of each body (assembly), without the four instructions of the mark behind it.

    Skips the test where the emulator is missing.
    """
    (triple, cpu), emulator, mark, leave = _MACHINES[arch]
    if not shutil.which(emulator[0]):
        pytest.skip("needs the Debian package qemu-user")
    mode = ".arm" if arch == "arm" else ""
    text = f"{mode}\n .globl _start\n_start:\n{prepare}\n{mark}"
    text += "".join(f"{body}\n{mark}" for body in bodies)
    text += f'{leave} .section .note.GNU-stack,"",%progbits\n'
    (folder / "guest.s").write_text(text)
    zig(
        ["-target", triple, f"-mcpu={cpu}", "-nostdlib", "-static", "guest.s", "-o", "guest"],
        folder,
    )
    regions = count(emulator, ["./guest"], caches, folder, build_plugin())
    assert len(regions) == len(bodies)
    return [
        Counts((r["int"] - 3, *r.classes[1:-1], r["other"] - 1), r.l1d_misses, r.l2_misses)
        for r in regions
    ]
