"""What a template may choose, and who chooses.

A template computes its default decision, lists the others that are legal and worth a trial, and
asks which one to take. A build takes the default or what a tuning log says; the tuner takes one
after the other. Decisions are frozen dataclasses whose leaves are integers; as a row of integers
they are what the search mutates, and what a trace holds as its sampled values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from schedules.blocks import Schedule

Decision = TypeVar("Decision")
Values = tuple[int, ...]
# Decisions of one template, listed: more are not worth looking at.
MAX_DECISIONS = 1024


class Chooser(Protocol):
    """Takes one of the decisions of a template."""

    def __call__(self, sch: Schedule, default: Decision, others: Iterable[Decision]) -> Decision:
        """``others`` may hold the default and duplicates; it is read only where it is needed."""


class UnknownDecisionError(ValueError):
    """The template does not offer the decision that was asked for."""


def take_default(sch: Schedule, default: Decision, others: Iterable[Decision]) -> Decision:
    """The chooser of a build without tuning."""
    return default


@dataclass(frozen=True)
class Space:
    """The decisions of one function's template.

    Args:
        names: of the integers of a decision.
        rows: each decision as integers, the default first, without duplicates.
    """

    names: tuple[str, ...]
    rows: tuple[Values, ...]

    def options(self, column: int) -> list[int]:
        """The values that occur for one integer, ascending."""
        return sorted({row[column] for row in self.rows})


class Listing:
    """Takes the default and notes what else there was.

    Args:
        space: of the template that took the function; None before, or if it has no choice.
    """

    def __init__(self) -> None:
        self.space: Space | None = None

    def __call__(self, sch: Schedule, default: Decision, others: Iterable[Decision]) -> Decision:
        self.space = list_space(default, others)[0]
        return default


class TakeValues:
    """Takes the decision with these values, and writes them into the trace.

    Args:
        schedule: the schedule of the template that asked; None before.

    Raises (when called):
        UnknownDecisionError: the template has no such decision.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self.values = tuple(values)
        self.schedule: Schedule | None = None

    def __call__(self, sch: Schedule, default: Decision, others: Iterable[Decision]) -> Decision:
        self.schedule = sch
        space, decisions = list_space(default, others)
        if self.values not in space.rows:
            raise UnknownDecisionError(
                f"no decision {dict(zip(space.names, self.values, strict=False))}"
            )
        for column, value in enumerate(self.values):
            options = space.options(column)
            probabilities = [1 / len(options)] * len(options)
            sch.sample_categorical(options, probabilities, options.index(value))
        return decisions[space.rows.index(self.values)]


def list_space(default: Decision, others: Iterable[Decision]) -> tuple[Space, list[Decision]]:
    """All decisions once, the default first, as integers and as they are."""
    found: dict[Values, Decision] = {_values(default): default}
    for decision in others:
        found.setdefault(_values(decision), decision)
        if len(found) >= MAX_DECISIONS:
            break
    return Space(_names(default), tuple(found)), list(found.values())


def nearby(
    cost: Callable[[Decision], float], decisions: Iterable[Decision], most: int, slack: float
) -> Iterator[Decision]:
    """The decisions that a cost model finds cheapest, best first; nothing is priced unless read.

    Args:
        cost: estimated time in any unit.
        most: so many at most.
        slack: none that costs more than this many times the cheapest.
    """
    priced = sorted(((cost(d), i, d) for i, d in enumerate(decisions)), key=lambda p: p[:2])
    for price, _, decision in priced[:most]:
        if price <= slack * priced[0][0]:
            yield decision


def _leaves(decision: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    for field in dataclasses.fields(decision):
        value = getattr(decision, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, int(value)


def _values(decision: Any) -> Values:
    return tuple(value for _, value in _leaves(decision))


def _names(decision: Any) -> tuple[str, ...]:
    return tuple(name for name, _ in _leaves(decision))
