"""Targets are data: one TOML file a CPU, read by every stage that must know the machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # noqa: F401


@dataclass(frozen=True)
class Caches:
    """Data cache sizes in bytes; 0 where the level is missing. L2 and L3 as one core sees them."""

    l1d: int
    l2: int
    l3: int
    line: int = 64


@dataclass(frozen=True)
class Vector:
    """The vector unit: ``bits`` 0 means there is none and scalar registers do the work.

    Args:
        bits: width of one register.
        registers: architectural registers that hold float accumulators.
        fma: whether multiply-add is one instruction.
        fma_latency: cycles from one FMA to a dependent one.
        fma_per_cycle: FMA instructions issued a cycle and core.
    """

    bits: int
    registers: int
    fma: bool
    fma_latency: int
    fma_per_cycle: float

    def lanes(self, dtype_bits: int = 32) -> int:
        """Elements in one register; at least 1."""
        return max(1, self.bits // dtype_bits)


@dataclass(frozen=True)
class Emulator:
    """How to run the target's programs elsewhere: ``command`` + program, with ``packages`` of Debian."""

    command: tuple[str, ...]
    sysroot: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """One CPU. See targets/*.toml for the fields' meaning and units."""

    name: str
    description: str
    boards: tuple[str, ...]
    arch: str  # "x86_64" | "aarch64" | "arm" | "riscv64"
    triple: str  # LLVM
    cpu: str  # LLVM
    features: tuple[str, ...]  # LLVM, "+avx2"
    abi: str  # LLVM float ABI name, "" for the default
    cores: int
    frequency_ghz: float
    vector: Vector
    caches: Caches
    linker_triple: str  # zig
    linker_cpu: str  # zig -mcpu for the C runtime
    emulator: Emulator | None

    def peak_gflops(self, dtype_bits: int = 32) -> float:
        """Multiply-accumulate peak of one core, 2 operations an FMA lane, at frequency_ghz."""
        operations = 2 * self.vector.lanes(dtype_bits) * self.vector.fma_per_cycle
        return operations * self.frequency_ghz

    def tvm(self) -> dict[str, Any]:
        """The dictionary that ``tvm.target.Target`` takes."""
        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.cpu,
            "num-cores": self.cores,
        }
        if self.features:
            config["mattr"] = list(self.features)
        if self.abi:
            config["mabi"] = self.abi
        return config
