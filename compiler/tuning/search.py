"""Which decisions of one task to measure next.

A space is a list (``schedules.choices``), short enough to be priced whole by a model, so the search
needs no population that approximates its best: each round measures what gradient-boosted trees,
trained on what this task has shown, price lowest, and some decisions at random so that the model
sees what it does not believe in. At last it descends from the best one coordinate at a time, as
TVM's Droplet search does (Canesche et al., 2024, "The Droplet Search Algorithm for Kernel
Scheduling").
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np

from schedules.choices import Space, Values

# Relative gain to hope for where nothing but the default is known.
PRIOR_GAIN = 0.1
RANDOM_SHARE = 0.25
MIN_TRAINING = 4
# A round without a gain makes the next one this much less promising.
DAMPING = 0.5


class Search:
    """The search over one space.

    Args:
        measured: seconds of decisions; infinite for those that failed.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space = space
        self.measured: dict[Values, float] = {}
        self._random = random.Random(seed)
        self._features = _features(space)
        self._index = {row: i for i, row in enumerate(space.rows)}
        self._trust = 1.0
        self._predicted: np.ndarray | None = None

    @property
    def best(self) -> float:
        """Seconds of the fastest decision so far; infinite before the first."""
        return min(self.measured.values(), default=math.inf)

    @property
    def best_values(self) -> Values:
        """The fastest decision so far; the default before the first."""
        return min(self.measured, key=self.measured.__getitem__, default=self.space.rows[0])

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to measure."""
        return len(self.measured) >= len(self.space.rows)

    def expected_gain(self) -> float:
        """The part of the task's time, 0 to 1, that the next round may save."""
        if self.exhausted:
            return 0.0
        if self._predicted is None:
            return PRIOR_GAIN * self._trust
        left = [i for i, row in enumerate(self.space.rows) if row not in self.measured]
        promised = 1 - float(np.min(self._predicted[left])) / self.best
        # Trees do not promise less than they have seen; neighbours of the best may still give it.
        return max(promised, PRIOR_GAIN / 2) * self._trust

    def prospects(self) -> Iterator[float]:
        """``expected_gain`` of the next round and of those behind it, if none gains anything."""
        gain = self.expected_gain()
        yield gain
        if self._predicted is None:
            gain /= 2  # what is hoped for without a model
        while True:
            gain *= DAMPING
            yield gain

    def propose(self, count: int) -> list[Values]:
        """Up to ``count`` decisions that are not measured yet; the default is the first of all."""
        chosen: dict[Values, None] = {}
        if self.space.rows[0] not in self.measured:
            chosen[self.space.rows[0]] = None
        left = [row for row in self.space.rows if row not in self.measured and row not in chosen]
        n_random = count if self._predicted is None else math.ceil(RANDOM_SHARE * count)
        if self._predicted is not None:
            ranked = sorted(left, key=lambda row: self._predicted[self._index[row]])  # type: ignore[index]
            chosen.update(dict.fromkeys(ranked[: max(0, count - n_random - len(chosen))]))
        # Spaces are listed with what the template's cost model likes first.
        half = [row for row in left if row not in chosen]
        for pool in (half[: max(count, len(half) // 4)], half):
            n = min(len(pool), (n_random + 1) // 2, count - len(chosen))
            chosen.update(dict.fromkeys(self._random.sample(pool, max(0, n))))
        return list(chosen)[:count]

    def neighbours(self) -> list[Values]:
        """Decisions one step of one integer from the best that are not measured yet."""
        best = self.best_values
        found = []
        for column in range(len(best)):
            options = self.space.options(column)
            at = options.index(best[column])
            for step in (at - 1, at + 1):
                if 0 <= step < len(options):
                    row = (*best[:column], options[step], *best[column + 1 :])
                    if row in self._index and row not in self.measured:
                        found.append(row)
        return found

    def observe(self, results: Sequence[tuple[Values, float]]) -> None:
        """Learn what was measured: seconds, infinite for a failure."""
        before = self.best
        self.measured.update(results)
        self._train()
        improved = 1 - self.best / before if math.isfinite(before) else 1.0
        self._trust = 1.0 if improved > 0.01 else self._trust * DAMPING

    def _train(self) -> None:
        """Fit log(seconds) over all decisions measured."""
        rows = [row for row, seconds in self.measured.items() if math.isfinite(seconds)]
        if len(rows) < MIN_TRAINING:
            return
        import xgboost

        seconds = np.array([self.measured[row] for row in rows])
        data = xgboost.DMatrix(self._features[[self._index[row] for row in rows]], np.log(seconds))
        options = {"max_depth": 4, "eta": 0.2, "min_child_weight": 0.5, "nthread": 1, "seed": 0}
        model = xgboost.train({**options, "objective": "reg:squarederror"}, data, 60)
        self._predicted = np.exp(model.predict(xgboost.DMatrix(self._features)))


def _features(space: Space) -> np.ndarray:
    """float32 [decisions, features]: the integers, their logarithms, sums of pairs of those, and
    how early the template lists the decision."""
    values = np.array(space.rows, np.float32)
    logs = np.log2(np.maximum(values, 0) + 1)
    pairs = [logs[:, i] + logs[:, j] for i in range(logs.shape[1]) for j in range(i)]
    order = np.arange(len(values), dtype=np.float32) / len(values)
    return np.column_stack([values, logs, *pairs, order])
