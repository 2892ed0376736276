"""Signal and noise of a tensor over many samples."""

from __future__ import annotations

import numpy as np


class Noise:
    """Adds up power of a tensor, of its error, and of products of both versions."""

    def __init__(self) -> None:
        self.signal = self.noise = self.product = self.other = 0.0

    def add(self, exact: np.ndarray, made: np.ndarray) -> None:
        a, b = exact.astype("float64").ravel(), made.astype("float64").ravel()
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        self.noise += float(((a - b) ** 2).sum())

    @property
    def ratio(self) -> float:
        """Noise over signal."""
        return self.noise / self.signal if self.signal else float(self.noise > 0)

    @property
    def db(self) -> float:
        return float("inf") if self.ratio == 0 else float(-10 * np.log10(self.ratio))

    @property
    def cosine(self) -> float:
        length = float(np.sqrt(self.signal * self.other))
        return self.product / length if length else 1.0


def sqnr(exact: np.ndarray, made: np.ndarray) -> float:
    """Signal to noise ratio of one tensor, in dB."""
    noise = Noise()
    noise.add(exact, made)
    return noise.db
