"""Under what circumstances a session measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm

from compiler import __version__
from compiler.target import Target
from compiler.tuning.log import Fingerprint
from schedules.registry import VERSIONS


def fingerprint(
    target: Target, runner: str, threads: int, machine: Mapping[str, str]
) -> Fingerprint:
    """What a record's time depends on beside the code.

    Args:
        runner: "local", "ssh", "rpc" or "emulated".
        threads: of the kernels.
        machine: what the device says of itself.
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
        **machine,
    }
    return Fingerprint(runner, facts, dict(VERSIONS))
