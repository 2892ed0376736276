"""Which CPU features a target's code needs, and which this host lacks."""

from __future__ import annotations

import platform
from pathlib import Path

from compiler.target import Target

_X86_V2 = ("cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
_X86_V3 = (*_X86_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_X86_V4 = (*_X86_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ARM_V8_2 = ("crc", "dotprod", "fullfp16", "lse", "neon")

# What LLVM takes for granted when it compiles for a CPU; other CPUs must list their features.
_IMPLIED: dict[str, tuple[str, ...]] = {
    "x86-64-v2": _X86_V2,
    "x86-64-v3": _X86_V3,
    "x86-64-v4": _X86_V4,
    "haswell": _X86_V3,
    "skylake": _X86_V3,
    "znver2": _X86_V3,
    "znver3": _X86_V3,
    "znver4": (*_X86_V4, "avx512vnni", "avx512vbmi", "avx512bf16"),
    "skylake-avx512": _X86_V4,
    "cascadelake": (*_X86_V4, "avx512vnni"),
    "icelake-server": (*_X86_V4, "avx512vnni", "avx512vbmi"),
    "sapphirerapids": (*_X86_V4, "avx512vnni", "avx512vbmi", "avx512bf16", "avx512fp16"),
    "cortex-a55": _ARM_V8_2,
    "cortex-a75": _ARM_V8_2,
    "cortex-a76": _ARM_V8_2,
    "cortex-a78": _ARM_V8_2,
    "neoverse-n1": _ARM_V8_2,
    "neoverse-n2": (*_ARM_V8_2, "bf16", "fp16fml", "i8mm"),
    "spacemit-x60": ("v",),
    "sifive-x280": ("v",),
}

# LLVM's name -> the kernel's in /proc/cpuinfo, where they differ.
_CPUINFO = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "avxvnni": "avx_vnni",
    "neon": "asimd",
    "crc": "crc32",
    "lse": "atomics",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "fp16fml": "asimdfhm",
} | {
    f"avx512{name}": f"avx512_{name}"
    for name in ("vnni", "vbmi2", "bitalg", "vpopcntdq", "bf16", "fp16")
}

_CHECKED = {
    "x86_64": {*_X86_V4, "avx512vnni", "avx512vbmi", "avx512vbmi2", "avx512bf16", "avx512fp16"}
    | {"avx512ifma", "avx512bitalg", "avx512vpopcntdq", "avxvnni", "gfni", "vaes"},
    "aarch64": {*_ARM_V8_2, "aes", "sha2", "sve", "sve2", "fp16fml", "i8mm", "bf16"},
    "arm": {"neon", "vfp3", "vfp4", "hwdiv-arm"},
    "riscv64": set("acdfmv") | {f"vlen{bits}" for bits in (128, 256, 512, 1024)},
}


def required_features(target: Target) -> tuple[str, ...]:
    """LLVM feature names that a CPU must have to run the target's code, without "+", sorted.

    "vlen256" and its like stand for RISC-V vector registers of exactly that many bits. Only
    features that runtime/cpu.c can ask the CPU or the kernel for are listed.
    """
    wanted = set(_IMPLIED.get(target.cpu, ()))
    for feature in target.features:
        if feature.startswith("-"):
            wanted.discard(feature[1:])
        else:
            wanted.add(feature.removeprefix("+"))
    if "v" in wanted and target.has_known_vector_length:
        wanted.add(f"vlen{target.vector.bits}")
    return tuple(sorted(wanted & _CHECKED[target.arch]))


def host_arch() -> str:
    """This machine's architecture by the names of ``Target.arch``."""
    machine = platform.machine().lower()
    names = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "arm", "armv8l": "arm"}
    return names.get(machine, machine)


def host_flags() -> frozenset[str]:
    """Feature names as /proc/cpuinfo has them; empty where it can't be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def why_not_on_host(arch: str, features: tuple[str, ...]) -> str | None:
    """A reason why this host can't run code for `arch` with `features`, or None when it can."""
    if arch != host_arch():
        return f"this host is {host_arch()}, the target {arch}"
    flags = host_flags()
    missing = [name for name in features if flags and _CPUINFO.get(name, name) not in flags]
    if arch == "riscv64":
        missing = []  # cpuinfo has an ISA string instead; init checks the hardware capabilities
    if missing:
        return f"this CPU has no {', '.join(missing)}"
    return None
