"""Counts of a package, operator by operator, and the time they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.estimate.counts import Counts
from compiler.estimate.plugin import build_plugin, count
from compiler.package.manifest import Package
from compiler.package.runner import Runner
from compiler.package.verify import golden_inputs
from compiler.target import Target, load_target

# What no count can tell; shown with every estimate.
UNKNOWN = (
    "more than one thread: the counts and the time are those of one",
    "the clock: heat and governors lower it",
    "what else runs: other programs share the outer caches and the memory",
    "TLB misses, prefetching, branch prediction: only their average is in the fit",
    "a single operator's error: the error bar is of whole networks",
)


@dataclass(frozen=True)
class OperatorEstimate:
    """One operator of one inference on one thread.

    Args:
        macs: nominal multiply-accumulates, from the receipt.
        ms: estimated milliseconds, None for a CPU without a fit.
        share: of the estimated time, or of the instructions where there is none; 0 to 1.
    """

    index: int
    label: str
    template: str
    macs: int
    counts: Counts
    ms: float | None
    share: float

    @property
    def instructions_per_mac(self) -> float | None:
        """None for an operator without multiply-accumulates."""
        return self.counts.instructions / self.macs if self.macs else None


@dataclass(frozen=True)
class Estimate:
    """One inference on one core of `target`, after a warm-up run.

    Args:
        ms: estimated milliseconds, None for a CPU without a fit.
    """

    target: Target
    emulator: str
    operators: tuple[OperatorEstimate, ...]
    counts: Counts
    ms: float | None

    @property
    def macs(self) -> int:
        return sum(operator.macs for operator in self.operators)

    @property
    def error_ms(self) -> float | None:
        """The fit's mean error at this time."""
        fit = self.target.estimate
        return None if self.ms is None or fit is None else self.ms * fit.error


def estimate_package(
    package: Package,
    target: Target | None = None,
    *,
    timeout: float | None = None,
) -> Estimate:
    """Runs the package once under the counting emulator, after a warm-up run, on one thread.

    Args:
        target: whose caches, clock and fit to take; default: the package's own.
        timeout: seconds the emulator may take.
    Raises:
        EdgeccError: a file of the package was changed, the target is a file of the user's own and
            was not given or is of another architecture, the emulator is missing or takes no
            plugins, or the library fails.
    """
    package.check_files()
    built_for = package.manifest["target"]
    target = target or _own_target(package)
    if target.arch != built_for["arch"]:
        raise EdgeccError(
            f"--target {target.name} is {target.arch}, {package.path} is {built_for['arch']}",
            "build the model for that target",
        )
    if built_for["emulator"] is None:
        raise EdgeccError(
            f"{package.path}: nothing emulates its target {package.target_name}, so its "
            "instructions can't be counted",
            "`bench` times it on a machine like that; --target arm_cortex_a72 at `build` makes a "
            "package that can be estimated",
        )
    runner = Runner(package, emulate=True)
    plugin = build_plugin()
    regions: list[Counts] = []

    def execute(command: Sequence[str], folder: Path) -> None:
        n = len(runner.prefix)
        regions.extend(count(command[:n], command[n:], target.caches, folder, plugin, timeout))

    runner.count(golden_inputs(package), execute)
    rows = package.receipt()["operators"]
    if len(regions) != len(rows):
        raise EdgeccError(
            f"{package.library}: {len(regions)} operators ran, the receipt has {len(rows)}",
            "build the package again",
        )
    return _estimate(target, str(runner.emulator), rows, regions)


def _own_target(package: Package) -> Target:
    try:
        return load_target(package.target_name)
    except EdgeccError as error:
        raise EdgeccError(
            f"{package.path}: the target '{package.target_name}' is not a shipped one",
            "give its file: --target ./my_board.toml",
        ) from error


def _estimate(
    target: Target, emulator: str, rows: Sequence[dict], regions: Sequence[Counts]
) -> Estimate:
    total = Counts.sum(regions)
    fit = target.estimate

    def cycles(counts: Counts) -> float:
        if fit is None:
            return float(counts.instructions)
        return fit.cycles(counts.instructions, counts.l1d_misses, counts.l2_misses)

    def milliseconds(counts: Counts) -> float | None:
        return None if fit is None else cycles(counts) / (target.frequency_ghz * 1e6)

    operators = tuple(
        OperatorEstimate(
            index=i,
            label=row["label"],
            template=row.get("template", ""),
            macs=row["macs"],
            counts=counts,
            ms=milliseconds(counts),
            share=cycles(counts) / (cycles(total) or 1.0),
        )
        for i, (row, counts) in enumerate(zip(rows, regions, strict=True))
    )
    return Estimate(target, emulator, operators, total, milliseconds(total))
