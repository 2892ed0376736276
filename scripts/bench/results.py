"""What was measured, and what is concluded from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "edgecc"
ORT = "onnxruntime"


@dataclass
class Entry:
    """One engine on one network with one number of threads.

    Args:
        error: largest relative error of its outputs; None when it made none.
        refused: why it was not timed; None when it was.
        wrong: that its outputs are why.
        medians_ms: median of single inferences, round by round.
        minima_ms: the same for the minimum.
        runs: timed inferences in all.
    """

    engine: str
    error: float | None = None
    refused: str | None = None
    wrong: bool = False
    medians_ms: list[float] = field(default_factory=list)
    minima_ms: list[float] = field(default_factory=list)
    runs: int = 0

    @property
    def timed(self) -> bool:
        return self.refused is None and bool(self.medians_ms)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.medians_ms)

    @property
    def min_ms(self) -> float:
        return min(self.minima_ms)

    def refuse(self, why: str, wrong: bool = False) -> None:
        """A result that is wrong or incomplete has no time."""
        self.refused, self.wrong = why, wrong
        self.medians_ms.clear()
        self.minima_ms.clear()


@dataclass
class Row:
    """All engines on one network with one number of threads."""

    model: str
    threads: int
    entries: dict[str, Entry]

    def timed(self, engine: str) -> Entry | None:
        entry = self.entries.get(engine)
        return entry if entry is not None and entry.timed else None

    @property
    def best_peer(self) -> Entry | None:
        peers = [entry for name, entry in self.entries.items() if name != OURS and entry.timed]
        return min(peers, key=lambda entry: entry.median_ms, default=None)

    @property
    def to_best(self) -> float | None:
        """edgecc's time over the best peer's."""
        return pair_ratio(self.timed(OURS), self.best_peer)

    @property
    def to_onnxruntime(self) -> float | None:
        return pair_ratio(self.timed(OURS), self.timed(ORT))


def pair_ratio(ours: Entry | None, theirs: Entry | None) -> float | None:
    """Median over the rounds of our median over theirs of the same round.

    What disturbs the machine for longer than a round meets both sides of a pair.
    """
    if ours is None or theirs is None:
        return None
    pairs = zip(ours.medians_ms, theirs.medians_ms, strict=True)
    return statistics.median(our / their for our, their in pairs)


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    logs = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(statistics.fmean(logs)) if logs else None


def relative_error(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """Largest absolute error over the largest absolute value, over all outputs.

    Outputs may lack axes of extent 1; NaN and infinities are an infinite error.

    Returns:
        The error, and why it is infinite where the outputs can't be compared.
    """
    worst = 0.0
    for name, reference in expected.items():
        value = found.get(name)
        if value is None:
            return math.inf, f"output {name!r} is missing"
        if tuple(n for n in value.shape if n != 1) != tuple(n for n in reference.shape if n != 1):
            return math.inf, f"output {name!r} has shape {value.shape}, not {reference.shape}"
        exact = reference.astype(np.float64)
        difference = np.abs(value.astype(np.float64).reshape(exact.shape) - exact)
        if not np.isfinite(difference).all():
            return math.inf, f"output {name!r} is not finite"
        scale = float(np.abs(exact).max(initial=0.0)) or 1.0
        worst = max(worst, float(difference.max(initial=0.0)) / scale)
    return worst, ""


def to_json(rows: list[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report for machines; times in milliseconds."""
    return {
        **about,
        "results": [
            {
                "model": row.model,
                "threads": row.threads,
                "best_peer": row.best_peer.engine if row.best_peer else None,
                "edgecc_to_best_peer": row.to_best,
                "edgecc_to_onnxruntime": row.to_onnxruntime,
                "engines": {name: _entry(entry) for name, entry in row.entries.items()},
            }
            for row in rows
        ],
        "geometric_means": [
            {
                "threads": threads,
                "edgecc_to_best_peer": geometric_mean(row.to_best for row in some),
                "edgecc_to_onnxruntime": geometric_mean(row.to_onnxruntime for row in some),
            }
            for threads, some in by_threads(rows).items()
        ],
    }


def by_threads(rows: list[Row]) -> dict[int, list[Row]]:
    """Rows by number of threads, both in the order measured."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.threads, []).append(row)
    return groups


def _entry(entry: Entry) -> dict[str, Any]:
    error = entry.error
    found = {"relative_error": error if error is not None and math.isfinite(error) else None}
    if not entry.timed:
        return {**found, "refused": entry.refused, "wrong": entry.wrong}
    return {
        **found,
        "median_ms": entry.median_ms,
        "min_ms": entry.min_ms,
        "runs": entry.runs,
        "round_medians_ms": entry.medians_ms,
    }
