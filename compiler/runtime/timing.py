"""What `bench` and `profile` measure, natively and under emulation alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Wall time of one run, in milliseconds, over `runs` runs after `warmup` unmeasured ones."""

    min_ms: float
    median_ms: float
    p90_ms: float
    runs: int
    warmup: int
    threads: int

    @classmethod
    def of(cls, samples_ms: Sequence[float], warmup: int, threads: int) -> Timing:
        """Summary of the samples (at least one)."""
        ordered = sorted(samples_ms)
        p90 = ordered[math.ceil(0.9 * len(ordered)) - 1]
        return cls(ordered[0], statistics.median(ordered), p90, len(ordered), warmup, threads)


@dataclass(frozen=True)
class OperatorTime:
    """Median time of one operator.

    Args:
        share: of the sum over all operators, 0 to 1.
        macs: multiply-accumulates of one run.
        nbytes: bytes read and written.
    """

    index: int
    label: str
    ms: float
    share: float
    macs: int
    nbytes: int

    @property
    def gflops(self) -> float:
        """2 operations a multiply-accumulate."""
        return 2 * self.macs / (self.ms * 1e6) if self.ms > 0 else 0.0


def operator_times(
    rows_ms: Sequence[Sequence[float]], operators: Sequence[tuple[str, int, int]]
) -> list[OperatorTime]:
    """Medians over runs.

    Args:
        rows_ms: for each run, the milliseconds of each operator.
        operators: label, macs and nbytes of each operator.
    """
    medians = [statistics.median(column) for column in zip(*rows_ms, strict=True)]
    total = sum(medians) or 1.0
    return [
        OperatorTime(i, label, ms, ms / total, macs, nbytes)
        for i, (ms, (label, macs, nbytes)) in enumerate(zip(medians, operators, strict=True))
    ]
