"""From observed values to the range of real numbers that 8 bits shall cover.

Each calibrator streams: it sees one array at a time and keeps a histogram of constant size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from compiler.errors import EdgeccError
from compiler.quantize.histogram import Histogram

LEVELS = 256  # of eight bits
# Ends tried by the searches, as shares of the largest value seen.
SHARES = np.linspace(0.05, 1.0, 96)
Range = tuple[float, float]


class Calibrator(Protocol):
    """Watches one tensor over all samples."""

    def observe(self, array: np.ndarray) -> None:
        """Takes the tensor's value of one sample."""

    def range(self) -> Range:
        """(low, high) with low <= 0 <= high."""

    @property
    def seen(self) -> Range:
        """Least and greatest value, widened to hold 0."""


class MinMax:
    """All that was seen: nothing saturates.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 3.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def observe(self, array: np.ndarray) -> None:
        if array.size:
            self.low = min(self.low, float(array.min()))
            self.high = max(self.high, float(array.max()))

    def range(self) -> Range:
        return self.seen

    @property
    def seen(self) -> Range:
        return self.low, self.high


class _OfHistogram:
    def __init__(self) -> None:
        self.histogram = Histogram()

    def observe(self, array: np.ndarray) -> None:
        self.histogram.add(array)

    @property
    def seen(self) -> Range:
        if not self.histogram.total:
            return 0.0, 0.0
        return min(self.histogram.low, 0.0), max(self.histogram.high, 0.0)


class Percentile(_OfHistogram):
    """All but a share of outliers, half of it at each end.

    McKinstry et al., "Discovering Low-Precision Networks Close to Full-Precision Networks for
    Efficient Embedded Inference", 2018, section 3.1.

    Args:
        percent: how much of the values lies within the range.
    """

    def __init__(self, percent: float = 99.999) -> None:
        super().__init__()
        self.outside = (1 - percent / 100) / 2

    def range(self) -> Range:
        low = self.histogram.quantile(self.outside)
        return min(low, 0.0), max(self.histogram.quantile(1 - self.outside), 0.0)


class Mse(_OfHistogram):
    """The range of least mean squared error between values and their quantised copies.

    Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", ICCV
    workshops 2019, section 3, for an asymmetric range: both ends shrink together first, then each
    on its own.
    """

    def range(self) -> Range:
        low, high = self.seen
        if low == high:
            return low, high
        ends = [(low * share, high * share) for share in SHARES]
        best = min(ends, key=self._error)
        for _ in range(2):
            best = min(((low * share, best[1]) for share in SHARES), key=self._error)
            best = min(((best[0], high * share) for share in SHARES), key=self._error)
        return best

    def _error(self, ends: Range) -> float:
        histogram = self.histogram
        values = histogram.centres()
        scale = (ends[1] - ends[0]) / (LEVELS - 1) or 1.0
        zero = np.rint(-ends[0] / scale)
        stored = np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1)
        error = (values - (stored - zero) * scale) ** 2
        # rounding of values that the bins are too coarse to show
        error = np.maximum(error, min(scale, histogram.width) ** 2 / 12)
        return float(histogram.counts @ error)


class Entropy(_OfHistogram):
    """The range whose 256 levels keep most of the distribution's information.

    Least Kullback-Leibler divergence of the quantised from the clipped distribution: Migacz,
    "8-bit Inference with TensorRT", GTC 2017; for two-sided tensors both ends shrink together.
    """

    def range(self) -> Range:
        low, high = self.seen
        if low == high:
            return low, high
        return min(self._ranges(low, high), key=lambda item: item[0])[1]

    def _ranges(self, low: float, high: float) -> Iterator[tuple[float, Range]]:
        histogram = self.histogram
        counts = histogram.counts.copy()
        # Exact zeros are always represented; their number would outweigh everything else.
        zero = -histogram.first
        if len(counts) > 1:
            beside = np.delete(counts[max(zero - 1, 0) : zero + 2], min(zero, 1))
            counts[zero] = min(counts[zero], beside.max())
        edges = np.arange(len(histogram.counts) + 1) + histogram.first
        for share in SHARES:
            start = int(np.floor(low * share / histogram.width)) - histogram.first
            end = int(np.ceil(high * share / histogram.width)) - histogram.first
            start, end = max(start, 0), min(end, len(histogram.counts))
            if end - start < LEVELS // 2:
                continue
            ends = max(edges[start] * histogram.width, low), min(edges[end] * histogram.width, high)
            yield _divergence(counts, start, end), (float(ends[0]), float(ends[1]))
        if len(histogram.counts) < LEVELS // 2:
            yield np.inf, (low, high)


def _divergence(counts: np.ndarray, start: int, end: int) -> float:
    """KL divergence of bins [start, end) merged to 256 levels from the same with outliers."""
    inside = counts[start:end].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    level = np.arange(end - start) * LEVELS // (end - start)
    mass = np.bincount(level, inside, LEVELS)
    occupied = np.bincount(level, clipped > 0, LEVELS)
    spread = np.where(clipped > 0, (mass / np.maximum(occupied, 1))[level], 0.0)
    seen = clipped > 0
    p = clipped[seen] / clipped.sum()
    # a bin that only outliers fill has no mass of its own: a tiny one keeps the logarithm finite
    q = np.maximum(spread[seen], 1e-9) / max(spread.sum(), 1e-9)
    # what merged bins differ by chance (Miller, "Note on the bias of information estimates", 1955)
    chance = (np.count_nonzero(seen) - np.count_nonzero(occupied)) / (2 * clipped.sum())
    return float(np.sum(p * np.log(p / q)) - chance)


CALIBRATORS = {"minmax": MinMax, "percentile": Percentile, "entropy": Entropy, "mse": Mse}


def make_calibrator(name: str) -> Calibrator:
    """A fresh calibrator by its name in recipes; "percentile:99.9" carries its percentage.

    Raises:
        EdgeccError: there is none of that name.
    """
    kind, _, argument = name.partition(":")
    if kind == "percentile" and argument:
        try:
            percent = float(argument)
        except ValueError:
            percent = -1.0
        if 50 < percent <= 100:
            return Percentile(percent)
    elif kind in CALIBRATORS and not argument:
        return CALIBRATORS[kind]()
    raise EdgeccError(
        f"no calibrator is called '{name}'",
        "known are " + ", ".join(CALIBRATORS) + "; percentile:99.9 gives the percentage",
    )
