"""How often each value was seen: a histogram that grows with its data in constant memory."""

from __future__ import annotations

import numpy as np

BINS = 4096
SMALLEST_SPAN = 1e-30  # the inverse of a bin of it is still a float32


class Histogram:
    """Counts of real numbers in bins of one width, of which one edge is always 0.

    Bin k covers [k * width, (k + 1) * width). Where data reach beyond ``BINS`` bins the width
    doubles and neighbours are merged, which is exact because of the edge at 0.
    """

    def __init__(self) -> None:
        self.width = 0.0  # 0 until something else than zeros was seen
        self.first = 0  # index of the first bin
        self.counts = np.zeros(0, np.int64)
        self.low = np.inf
        self.high = -np.inf
        self._zeros = 0

    @property
    def total(self) -> int:
        return int(self.counts.sum()) + self._zeros

    def add(self, values: np.ndarray) -> None:
        """Counts the elements of an array of finite numbers."""
        if not values.size:
            return
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.low == self.high == 0.0:
            self._zeros += flat.size
            return
        self._widen()
        index = np.floor(flat * np.float32(1 / self.width)).astype(np.int64) - self.first
        # the product may be rounded across the outer edges
        np.clip(index, 0, len(self.counts) - 1, out=index)
        self.counts += np.bincount(index, minlength=len(self.counts))
        if self._zeros:
            self.counts[-self.first] += self._zeros
            self._zeros = 0

    def _widen(self) -> None:
        """Makes room for ``low``, ``high`` and 0."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if not self.width:
            span = max(high - low, SMALLEST_SPAN)
            # a power of two, so that products with its inverse are exact
            self.width = float(2.0 ** np.ceil(np.log2(span / BINS)))
        while True:
            first, last = int(np.floor(low / self.width)), int(np.floor(high / self.width))
            if last - first < BINS:
                break
            self._halve()
        first, end = min(first, self.first), max(last + 1, self.first + len(self.counts))
        if (first, end - first) != (self.first, len(self.counts)):
            grown = np.zeros(end - first, np.int64)
            at = self.first - first
            grown[at : at + len(self.counts)] = self.counts
            self.first, self.counts = first, grown

    def _halve(self) -> None:
        """Twice the width, half the bins."""
        self.width *= 2
        if len(self.counts):
            index = (np.arange(len(self.counts)) + self.first) // 2
            self.counts = np.bincount(index - index[0], self.counts).astype(np.int64)
            self.first = int(index[0])

    def centres(self) -> np.ndarray:
        """float64: the middle of each bin, within what was seen."""
        middle = (np.arange(len(self.counts)) + self.first + 0.5) * self.width
        return np.clip(middle, self.low, self.high)

    def quantile(self, share: float) -> float:
        """The value below which a share of the elements lies, interpolated within its bin."""
        if not len(self.counts):
            return 0.0
        below = np.cumsum(self.counts)
        wanted = share * below[-1]
        at = min(int(np.searchsorted(below, wanted)), len(below) - 1)
        before = below[at] - self.counts[at]
        part = (wanted - before) / max(self.counts[at], 1)
        value = (self.first + at + min(max(part, 0.0), 1.0)) * self.width
        return float(min(max(value, self.low), self.high))
