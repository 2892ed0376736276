"""Under what circumstances a session measures."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import tvm

from compiler import __version__
from compiler.target import Target
from compiler.tuning.log import Fingerprint
from schedules.registry import VERSIONS

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def fingerprint(target: Target, runner: str, threads: int) -> Fingerprint:
    """What a record's time depends on beside the code.

    Args:
        runner: "local", "ssh", "rpc" or "emulated".
        threads: of the kernels.
    """
    facts: dict[str, Any] = {
        "target": target.name,
        "cpu": target.cpu,
        "features": list(target.features),
        "vector_bits": target.vector.bits,
        "caches": dataclasses.asdict(target.caches),
        "cores": target.cores,
        "clock_ghz": target.frequency_ghz,
        "threads": threads,
        "llvm": tvm.target.codegen.llvm_version_major(),
        "edgecc": __version__,
    }
    if runner == "local":
        facts |= {"governor": _governor(), "machine": _cpu_model()}
    return Fingerprint(runner, facts, dict(VERSIONS))


def _governor() -> str:
    try:
        return _GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
