"""The target ``host``: this machine's CPU, read from /proc/cpuinfo and /sys."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.target import Caches, Target, load_target

_X86_V2 = {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_X86_V3 = _X86_V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_X86_V4 = _X86_V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}

# Of /proc/cpuinfo: flags beyond the level -> LLVM features.
_X86_EXTRA = {
    "avx512_vnni": "+avx512vnni",
    "avx_vnni": "+avxvnni",
    "avx512_bf16": "+avx512bf16",
}
_ARM_EXTRA = {"asimddp": "+dotprod", "i8mm": "+i8mm", "bf16": "+bf16"}

# ARM's part numbers (implementer 0x41), slow cores first -> nearest shipped target, LLVM name.
_ARM_PARTS = {
    "0xd04": ("arm_cortex_a53", "cortex-a35"),
    "0xd03": ("arm_cortex_a53", "cortex-a53"),
    "0xd05": ("arm_cortex_a55", "cortex-a55"),
    "0xd46": ("arm_cortex_a55", "cortex-a510"),
    "0xd07": ("arm_cortex_a72", "cortex-a57"),
    "0xd08": ("arm_cortex_a72", "cortex-a72"),
    "0xd09": ("arm_cortex_a72", "cortex-a73"),
    "0xd0a": ("arm_cortex_a76", "cortex-a75"),
    "0xd0b": ("arm_cortex_a76", "cortex-a76"),
    "0xd0d": ("arm_cortex_a76", "cortex-a77"),
    "0xd41": ("arm_cortex_a76", "cortex-a78"),
    "0xd0c": ("arm_neoverse_n1", "neoverse-n1"),
    "0xd49": ("arm_neoverse_n2", "neoverse-n2"),
    "0xd40": ("arm_neoverse_n2", "neoverse-v1"),
    "0xd4f": ("arm_neoverse_n2", "neoverse-v2"),
}
# SVE is never used: the templates are written for fixed 128-bit registers.
_ARM_NO_SVE = ("cortex-a510", "neoverse-n2", "neoverse-v1", "neoverse-v2")


def host_target(root: Path = Path("/"), machine: str | None = None) -> Target:
    """Detects this machine.

    Args:
        root: where proc/ and sys/ are found; for tests.
        machine: as ``uname -m`` says; detected when left out.

    Raises:
        EdgeccError: the architecture has no target.
    """
    machine = machine or platform.machine()
    cpuinfo = _read(root / "proc/cpuinfo")
    if machine in ("x86_64", "amd64"):
        target = _x86(cpuinfo)
    elif machine in ("aarch64", "arm64"):
        target = _aarch64(cpuinfo)
    elif machine in ("armv7l", "armv8l"):
        target = load_target("arm_cortex_a7")
    elif machine == "riscv64":
        target = _riscv64(cpuinfo)
    else:
        raise EdgeccError(
            f"target host: no support for the architecture '{machine}'",
            "name the target to build for: --target x86_64_v3",
        )
    cpu = root / "sys/devices/system/cpu"
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    what = model[1].strip() if model else target.cpu
    return replace(
        target,
        name="host",
        description=f"this machine: {what}",
        boards=(),
        cores=_physical_cores(cpu),
        frequency_ghz=_frequency(cpu, cpuinfo) or target.frequency_ghz,
        caches=_caches(cpu / "cpu0/cache") or target.caches,
        emulator=None,
        estimate=None,
    )


def _x86(cpuinfo: str) -> Target:
    flags = set(_field(cpuinfo, "flags").split())
    if flags >= _X86_V4:
        target = load_target("x86_64_v4")
    elif flags >= _X86_V3:
        target = load_target("x86_64_v3")
    elif flags >= _X86_V2:
        target = replace(load_target("x86_64"), cpu="x86-64-v2")
    else:
        return load_target("x86_64")
    extra = tuple(feature for flag, feature in _X86_EXTRA.items() if flag in flags)
    if not flags >= _X86_V4:
        extra = tuple(feature for feature in extra if not feature.startswith("+avx512"))
    if not flags >= _X86_V3:
        extra = ()
    rate = _x86_fma_rate(cpuinfo, target.vector.bits)
    vector = replace(target.vector, fma_per_cycle=rate)
    return replace(target, features=(*target.features, *extra), vector=vector)


def _x86_fma_rate(cpuinfo: str, bits: int) -> float:
    """FMA (or multiply and add) instructions a cycle of the widest vectors."""
    if bits == 128:
        return 1.0
    family = int(_field(cpuinfo, "cpu family") or 0)
    model = int(_field(cpuinfo, "model") or 0)
    if "AMD" in _field(cpuinfo, "vendor_id"):
        zen1 = family == 0x17 and model < 0x30  # 128-bit units
        zen4 = family == 0x19 and bits == 512  # 256-bit units
        return 1.0 if zen1 or zen4 else 2.0
    client_avx512 = bits == 512 and "Xeon" not in _field(cpuinfo, "model name")
    return 1.0 if client_avx512 else 2.0


def _aarch64(cpuinfo: str) -> Target:
    parts = {part.lower() for part in re.findall(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)}
    by_arm = _field(cpuinfo, "CPU implementer").lower() == "0x41"
    known = [part for part in _ARM_PARTS if part in parts] if by_arm else []
    flags = set(_field(cpuinfo, "Features").split())
    extra = ["+neon", *(feature for flag, feature in _ARM_EXTRA.items() if flag in flags)]
    if not known:  # Apple, Qualcomm, ...: plain ARMv8 code with what the kernel reports
        base = load_target("arm_cortex_a76" if "asimddp" in flags else "arm_cortex_a72")
        return replace(base, cpu="generic", features=tuple(extra))
    shipped, cpu = _ARM_PARTS[known[-1]]  # schedule for the fastest core of a big.LITTLE pair
    if len(known) > 1:
        # The slow cores run the same code: take only what the kernel reports for all.
        return replace(load_target(shipped), cpu="generic", features=tuple(extra))
    if cpu in _ARM_NO_SVE:
        extra.append("-sve")
    return replace(load_target(shipped), cpu=cpu, features=tuple(extra))


def _riscv64(cpuinfo: str) -> Target:
    uarch = _field(cpuinfo, "uarch")
    isa = _field(cpuinfo, "isa")
    if "x60" in uarch:
        return load_target("riscv_spacemit_x60")
    if "u74" in uarch or "u7" in uarch:
        return load_target("riscv_sifive_u74")
    base = load_target("riscv64")
    letters, *names = isa.removeprefix("rv64").split("_")
    if "v" not in letters:
        return base
    widths = [int(name[3:-1]) for name in names if re.fullmatch(r"zvl\d+b", name)]
    bits = max([128, *widths])  # V guarantees 128
    vector = replace(base.vector, bits=min(bits, 1024))
    features = [*base.features, "+v", f"+zvl{bits}b"]
    if "zvfh" in names:  # float16, of scalars as well
        features += ["+zfh", "+zvfh"]
    return replace(base, features=tuple(features), vector=vector)


def _physical_cores(cpu: Path) -> int:
    """Cores this process may use; two threads of one core count once."""
    try:
        allowed: Iterable[int] = os.sched_getaffinity(0)
    except OSError:
        allowed = range(os.cpu_count() or 1)
    cores = set()
    for index in allowed:
        siblings = _read(cpu / f"cpu{index}/topology/thread_siblings_list").strip()
        cores.add(siblings or str(index))
    return max(1, len(cores))


def _frequency(cpu: Path, cpuinfo: str) -> float:
    """Highest frequency of any core in GHz; 0 when nothing tells."""
    found = [0.0]
    for path in cpu.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq"):
        found.append(_number(_read(path)) / 1e6)
    if max(found) <= 0:
        found += [
            _number(value) / 1e3
            for value in re.findall(r"^cpu MHz\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
        ]
    return round(max(found), 3)


def _caches(folder: Path) -> Caches | None:
    """Data caches of the first core; None when the kernel does not tell."""
    sizes: dict[int, int] = {}
    line = 64
    for index in sorted(folder.glob("index[0-9]*")):
        kind = _read(index / "type").strip()
        level = int(_number(_read(index / "level")))
        match = re.fullmatch(r"(\d+)([KM]?)", _read(index / "size").strip())
        if kind == "Instruction" or not match:
            continue
        sizes[level] = int(match[1]) * {"": 1, "K": 1024, "M": 1024 * 1024}[match[2]]
        line = int(_number(_read(index / "coherency_line_size"))) or line
    if not sizes.get(1):
        return None
    return Caches(sizes[1], sizes.get(2, 0), sizes.get(3, 0), line)


def _field(cpuinfo: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
