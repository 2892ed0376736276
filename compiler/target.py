"""Targets are data: one TOML file a CPU, read by every stage that must know the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Caches:
    """Data cache sizes in bytes; 0 where the level is missing. L2 and L3 as one core sees them.

    Args:
        line: bytes.
        l1d_ways, l2_ways: associativity.
    """

    l1d: int
    l2: int
    l3: int
    line: int = 64
    l1d_ways: int = 8
    l2_ways: int = 8


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
    """How to run programs of the target elsewhere: ``command`` + program; Debian ``packages``."""

    command: tuple[str, ...]
    sysroot: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class LatencyFit:
    """Cycles of one core from what an emulator counts: a sum of counts times cycles each.

    Args:
        error: mean relative error of a whole network that the fit has not seen.
        source: what was fitted to what.
    """

    cycles_per_instruction: float
    cycles_per_l1d_miss: float
    cycles_per_l2_miss: float
    error: float
    source: str

    def cycles(self, instructions: int, l1d_misses: int, l2_misses: int) -> float:
        return (
            self.cycles_per_instruction * instructions
            + self.cycles_per_l1d_miss * l1d_misses
            + self.cycles_per_l2_miss * l2_misses
        )


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
    estimate: LatencyFit | None = None  # None: nobody has fitted this CPU
    in_order: bool = False  # waits for a load where its value is used too soon

    @property
    def has_known_vector_length(self) -> bool:
        """Whether vector registers have exactly ``vector.bits``.

        False for RISC-V cores without a name: their code must also run where registers are longer.
        """
        if self.arch == "riscv64" and self.cpu.startswith("generic"):
            return False
        return self.vector.bits > 0

    @property
    def has_float16(self) -> bool:
        """Whether its vector unit computes in float16, twice as many numbers at a time."""
        feature = {"aarch64": "+fullfp16", "riscv64": "+zvfh"}.get(self.arch)
        return feature in self.features

    @property
    def has_bfloat16(self) -> bool:
        """Whether its vector unit adds up products of bfloat16 in float32."""
        return bool(
            {"aarch64": {"+bf16"}, "x86_64": {"+avx512bf16"}}.get(self.arch, set())
            & set(self.features)
        )

    @property
    def groups_loads(self) -> bool:
        """Whether one instruction should load up to four neighbouring vectors.

        AArch64 has such instructions. In-order cores do better with single loads, spread out well
        ahead of their use.
        """
        return self.arch == "aarch64" and not self.in_order

    @property
    def loads_register_groups(self) -> bool:
        """Whether one load can fill several vector registers that are then used one by one."""
        return self.arch == "riscv64" and self.has_known_vector_length

    def flops_per_cycle(self, dtype_bits: int = 32) -> float:
        """Multiply-accumulate peak of one core, 2 operations an FMA lane."""
        return 2 * self.vector.lanes(dtype_bits) * self.vector.fma_per_cycle

    def peak_gflops(self, dtype_bits: int = 32) -> float:
        """Multiply-accumulate peak of one core at frequency_ghz."""
        return self.flops_per_cycle(dtype_bits) * self.frequency_ghz

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


def load_target(name_or_file: str | Path) -> Target:
    """The target of that name ("arm_cortex_a72", "host") or of a TOML file ("./my_board.toml").

    Raises:
        EdgeccError: unknown name (with the nearest known one), or a file that is missing,
            is not TOML, or has missing, unknown or ill-typed keys.
    """
    from compiler import target_file

    return target_file.load(name_or_file)


def list_targets() -> list[str]:
    """Names of all shipped targets, sorted, with "host" last."""
    from compiler import target_file

    return target_file.names()
