"""What quantisation may cost, as ``--max-drop`` says it, and what it does cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from compiler.errors import EdgeccError
from compiler.quantize.labelled import Validation
from compiler.quantize.noise import Noise
from compiler.quantize.scores import labels_of

Outputs = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Outputs]
"""One sample of float inputs by name -> float outputs by name."""
Metric = Callable[[Run], float]
"""How good a model is; more is better."""

KINDS = ("sqnr", "agreement", "accuracy", "metric")
_HINT = (
    "sqnr:20 (dB at least), agreement:1% (of labels may differ from float32's), "
    "accuracy:0.1% (points on labelled data)"
)
# Outputs of the float model that are kept between evaluations.
MAX_KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class Bound:
    """Args:
    kind: one of ``KINDS``.
    limit: dB that must be reached for "sqnr", else how much less than float32 is allowed.
    metric: for "metric".
    """

    kind: str
    limit: float
    metric: Metric | None = None

    @staticmethod
    def parse(text: str, metric: Metric | None = None) -> Bound:
        """From ``KIND:NUMBER``, where a share may be given in percent.

        Raises:
            EdgeccError: it is none of the known forms.
        """
        kind, _, number = (part.strip() for part in text.partition(":"))
        if kind not in KINDS:
            raise EdgeccError(f"--max-drop {text}: '{kind}' is not known", _HINT)
        if (kind == "metric") != (metric is not None):
            raise EdgeccError(
                f"--max-drop {text}: the metric is a Python function",
                "compiler.build(..., max_drop='metric:0.01', metric=function)",
            )
        limit = _number(number, kind)
        if limit is None:
            raise EdgeccError(f"--max-drop {text}: '{number}' is no such number", _HINT)
        if limit < 0 or (kind in ("agreement", "accuracy") and limit > 1):
            raise EdgeccError(f"--max-drop {text}: out of range", _HINT)
        return Bound(kind, limit, metric)

    def holds(self, value: float, exact: float) -> bool:
        """Whether a quantised model's value is good enough, ``exact`` being float32's."""
        if self.kind == "sqnr":
            return value >= self.limit
        return value >= exact - self.limit - 1e-9

    def text(self, value: float) -> str:
        """A value as people read it."""
        if self.kind == "metric":
            return f"{value:.6g}"
        if math.isinf(value):
            return "no noise"
        return f"{value:.1f} dB" if self.kind == "sqnr" else f"{100 * value:.2f} %"

    def __str__(self) -> str:
        share = self.kind in ("agreement", "accuracy")
        return f"{self.kind}:{100 * self.limit:g}%" if share else f"{self.kind}:{self.limit:g}"


def _number(text: str, kind: str) -> float | None:
    """None where it is none of that kind."""
    share = text.endswith("%") and kind != "sqnr"
    plain = text[:-1] if share else text
    if kind == "sqnr" and plain.lower().endswith("db"):
        plain = plain[:-2]
    try:
        value = float(plain)
    except ValueError:
        return None
    return (value / 100 if share else value) if math.isfinite(value) else None


class Judge:
    """Measures models over the same samples.

    Args:
        exact: the float model.
    """

    def __init__(self, bound: Bound, validation: Validation, exact: Run) -> None:
        self.bound, self.validation = bound, validation
        self._exact = exact
        self._kept: list[Outputs] | None = None
        self.value_of_exact = math.inf if bound.kind == "sqnr" else self.measure(exact)

    def measure(self, run: Run) -> float:
        """The bound's quantity; SQNR is that of the worst output over all samples."""
        if self.bound.metric is not None:
            return float(self.bound.metric(run))
        measure = {"sqnr": self._sqnr, "agreement": self._agreement, "accuracy": self._accuracy}
        return measure[self.bound.kind](run)

    def holds(self, value: float) -> bool:
        return self.bound.holds(value, self.value_of_exact)

    def _sqnr(self, run: Run) -> float:
        noises: dict[str, Noise] = {}
        for sample, exact in self._pairs():
            for name, made in run(sample).items():
                if made.dtype.kind == "f":
                    noises.setdefault(name, Noise()).add(exact[name], made)
        if not noises:
            raise EdgeccError(
                "--max-drop sqnr: no output holds real numbers", "agreement:1% compares integers"
            )
        return min(noise.db for noise in noises.values())

    def _agreement(self, run: Run) -> float:
        equal = total = 0
        for sample, exact in self._pairs():
            wanted, found = labels_of(exact), labels_of(run(sample))
            equal += int(np.count_nonzero(wanted == found))
            total += wanted.size
        return equal / total

    def _accuracy(self, run: Run) -> float:
        right = total = 0
        for sample, labels in self.validation:
            found = labels_of(run(sample))
            assert labels is not None
            right += int(np.count_nonzero(found.ravel() == labels.ravel()))
            total += found.size
        return right / total

    def _pairs(self) -> Iterator[tuple[Mapping[str, np.ndarray], Outputs]]:
        """Samples and what the float model makes of them."""
        if self._kept is not None:
            yield from zip((s for s, _ in self.validation), self._kept, strict=True)
            return
        kept: list[Outputs] = []
        nbytes = 0
        for sample, _ in self.validation:
            outputs = self._exact(sample)
            nbytes += sum(value.nbytes for value in outputs.values())
            if nbytes <= MAX_KEPT_BYTES:
                kept.append(outputs)
            yield sample, outputs
        self._kept = kept if nbytes <= MAX_KEPT_BYTES else None
