"""Spends trials where a model's time is and can still fall."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from compiler.target import Target
from compiler.tuning.builders import Builders
from compiler.tuning.candidates import Candidate, Request
from compiler.tuning.fleet import Fleet
from compiler.tuning.log import Fingerprint, Record, TuningLog, compact
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.measure import Measurement
from compiler.tuning.search import Search
from compiler.tuning.tasks import Task, workload_as_json
from schedules.choices import Values
from schedules.registry import VERSIONS

BATCH = 8
# A task is done when this many of its decisions are measured.
TRIALS_A_TASK = 48
# The end: all tasks together promise less than this part of the model's time in the next round.
WORTHWHILE = 0.01
# Sums in another order differ in the last bits only.
TOLERANCE = 1e-4
# Descents from the best decision; winners that are compared with the default, and how often.
FINISHING_ROUNDS = 3
CONFIRMATIONS = 4
TURNS = 3

Event = dict[str, Any]


@dataclass
class Progress:
    """One task while it is tuned.

    Args:
        history: best seconds after each trial.
        chosen: what people read of the best decision.
        built: candidates that were measured; the default's outputs are what others' are compared
            with.
        codes: digest of a kernel's code -> seconds.
        tensorized: candidates with the default's intrinsic, and those that had lost it.
    """

    task: Task
    search: Search
    default_seconds: float = math.inf
    history: list[float] = field(default_factory=list)
    chosen: str = ""
    built: dict[Values, Candidate] = field(default_factory=dict)
    codes: dict[str, float] = field(default_factory=dict)
    tensorized: tuple[int, int] = (0, 0)
    touched: bool = False  # since the log was opened

    @property
    def default(self) -> Values:
        """The template's own decision."""
        return self.task.space.rows[0]

    @property
    def seconds(self) -> float:
        """Of all calls of the task in one inference."""
        return self.task.calls * self.search.best if math.isfinite(self.search.best) else 0.0

    @property
    def promise(self) -> float:
        """Seconds that its next round may save."""
        if len(self.search.measured) >= TRIALS_A_TASK:
            return 0.0
        return self.seconds * self.search.expected_gain()


def usable(record: Record, task: Task, log: TuningLog) -> bool:
    """Whether a record is of the template as it is now."""
    session = log.fingerprints.get(record.fingerprint)
    current = VERSIONS[task.template]
    return (
        session is not None
        and session.templates.get(task.template) == current
        and record.values in task.space.rows
    )


class Tuner:
    """Tunes the tasks of one model.

    Args:
        log: open for writing.
        notify: called with each event: {"event": ..., ...}.
        overlap: build while measuring: right for devices that do not share this machine's cores.
    """

    def __init__(
        self,
        target: Target,
        tasks: Sequence[Task],
        log: LogWriter,
        fleet: Fleet,
        builders: Builders,
        fingerprint: Fingerprint,
        notify: Callable[[Event], None],
        overlap: bool = False,
    ) -> None:
        self._target, self._log, self._fleet, self._builders = target, log, fleet, builders
        self._fingerprint, self._notify, self._overlap = fingerprint, notify, overlap
        self.tasks = [Progress(task, Search(task.space)) for task in tasks]
        self.trials = 0
        self._budget = 0
        for progress in self.tasks:
            self._recall(progress)

    def _recall(self, progress: Progress) -> None:
        """Start from what the log holds of this kind of device."""
        known = {}
        for record in self._log.of(progress.task.key):
            session = self._log.fingerprints.get(record.fingerprint)
            same = session is not None and session.emulated == self._fingerprint.emulated
            # Without the default nothing can be compared: one that failed gets another chance.
            failed = record.values == progress.default and not record.seconds
            if same and not failed and usable(record, progress.task, self._log):
                known[record.values] = record.best
        progress.search.observe(list(known.items()))
        progress.default_seconds = known.get(progress.default, math.inf)
        progress.history = [progress.search.best] * len(known)

    @property
    def recalled(self) -> int:
        """Tasks that the log says all about."""
        return sum(len(p.search.measured) >= self._wanted(p) for p in self.tasks)

    def _wanted(self, progress: Progress) -> int:
        return min(TRIALS_A_TASK, len(progress.task.space.rows))

    def run(self, trials: int) -> None:
        """Measure until the trials are spent or nothing promises enough."""
        self._budget = trials
        self._log.add_fingerprint(self._fingerprint)
        new = [p for p in self.tasks if p.default not in p.search.measured]
        self._build([(progress, progress.default) for progress in new])
        for progress in new:
            self._measure(progress, [progress.default])
        while self.trials < trials:
            progress = max(self.tasks, key=lambda p: p.promise)
            if sum(p.promise for p in self.tasks) < WORTHWHILE * self.seconds:
                break
            left = trials - self.trials
            self._measure(progress, progress.search.propose(min(BATCH, left)))
        self._finish(trials)
        self._confirm()

    @property
    def seconds(self) -> float:
        """Of the tasks in one inference, with the best decisions."""
        return sum(p.seconds for p in self.tasks)

    def trials_left(self) -> int | None:
        """Trials until the end if no round gains anything; None before all defaults are known."""
        if not all(p.search.measured for p in self.tasks):
            return None
        left = [max(0, self._wanted(p) - len(p.search.measured)) for p in self.tasks]
        prospects = [p.search.prospects() for p in self.tasks]
        promises = [p.seconds * next(gains) for p, gains in zip(self.tasks, prospects, strict=True)]
        promises = [p if n else 0.0 for p, n in zip(promises, left, strict=True)]
        expected, enough = 0, WORTHWHILE * self.seconds
        while expected < self._budget and sum(promises) >= enough > 0:
            i = promises.index(max(promises))
            size = min(BATCH, left[i])
            expected, left[i] = expected + size, left[i] - size
            promises[i] = self.tasks[i].seconds * next(prospects[i]) if left[i] else 0.0
        return min(expected, max(0, self._budget - self.trials))

    def _finish(self, trials: int) -> None:
        """Descend coordinate by coordinate where it may be felt."""
        for progress in sorted(self.tasks, key=lambda p: -p.seconds):
            for _ in range(FINISHING_ROUNDS):
                near = progress.search.neighbours()[: max(0, trials - self.trials)]
                if not near or progress.seconds < WORTHWHILE * self.seconds:
                    break
                before = progress.search.best
                self._measure(progress, near)
                if progress.search.best >= before:
                    break

    def _confirm(self) -> None:
        """Winner and default in turns: chance must not make the winner."""
        if self._fingerprint.emulated:
            return  # counts repeat exactly
        for progress in self.tasks:
            confirmed = {progress.default}
            while progress.touched and len(confirmed) <= CONFIRMATIONS:
                winner = progress.search.best_values
                if winner in confirmed or not self._compare(progress, winner):
                    break
                confirmed.add(winner)

    def _compare(self, progress: Progress, winner: Values) -> bool:
        """Measure a decision and the default in turns; False where one can't be."""
        self._build([(progress, v) for v in (progress.default, winner) if v not in progress.built])
        if not {progress.default, winner} <= set(progress.built):
            return False
        default, pair = progress.built[progress.default], (progress.default, winner)
        samples: dict[Values, list[float]] = {values: [] for values in pair}
        for _ in range(TURNS):
            candidates = [progress.built[values] for values in pair]
            for candidate, found in self._fleet.measure(default, candidates):
                if isinstance(found, Measurement):
                    samples[candidate.values].append(found.best)
        if not all(samples.values()):
            return False
        for values in pair:
            self._keep(progress, progress.built[values], samples[values])
        progress.default_seconds = progress.search.measured[progress.default]
        self._tell("confirmed", progress)
        return True

    def _build(self, wanted: Sequence[tuple[Progress, Values]]) -> None:
        """Build for any tasks; what can't be built is noted as a failure."""
        for progress, built in self._building(wanted):
            progress.built[built.values] = built

    def _building(
        self, wanted: Sequence[tuple[Progress, Values]]
    ) -> Iterator[tuple[Progress, Candidate]]:
        requests = [
            Request(p.task.as_json, p.task.n_inputs, self._target, values) for p, values in wanted
        ]
        outcomes = self._builders.build(requests)
        for (progress, values), built in zip(wanted, outcomes, strict=True):
            if isinstance(built, Candidate):
                yield progress, built
            else:
                self._skip(progress, values, math.inf, built)

    def _measure(self, progress: Progress, rows: Sequence[Values]) -> None:
        progress.touched = True
        if progress.default not in progress.built:
            self._build([(progress, progress.default)])
            if progress.default not in progress.built:
                return  # nothing to compare with
        default = progress.built[progress.default]
        candidates = self._fresh(progress, rows)
        if not self._overlap:
            candidates = iter(list(candidates))
        for candidate, found in self._fleet.measure(default, candidates):
            self._note(progress, candidate, found)

    def _fresh(self, progress: Progress, rows: Sequence[Values]) -> Iterator[Candidate]:
        """What is to be measured: the same code as before need not."""
        yield from (progress.built[values] for values in rows if values in progress.built)
        missing = [(progress, values) for values in rows if values not in progress.built]
        intrinsic = progress.built[progress.default].intrinsic
        for _, built in self._building(missing):
            kept, lost = progress.tensorized
            if intrinsic and built.intrinsic != intrinsic:
                progress.tensorized = kept, lost + 1
                self._skip(progress, built.values, math.inf, f"does without {intrinsic}")
                continue
            progress.tensorized = kept + bool(intrinsic), lost
            if built.digest in progress.codes:
                self._skip(progress, built.values, progress.codes[built.digest], "same code")
            else:
                progress.built[built.values] = built
                yield built

    def _note(self, progress: Progress, candidate: Candidate, found: Measurement | str) -> None:
        if isinstance(found, Measurement) and not found.error <= TOLERANCE:
            found = f"its results differ from the default's by {found.error:.1e}"
        if isinstance(found, str):
            self._log_result(progress, candidate, [])
            self._skip(progress, candidate.values, math.inf, found)
            return
        seconds = found.best
        progress.codes[candidate.digest] = seconds
        self._keep(progress, candidate, [seconds])
        if candidate.values == progress.default:
            progress.default_seconds = seconds
        self._tell("measured", progress, decision=candidate.decision, seconds=seconds)

    def _keep(self, progress: Progress, candidate: Candidate, samples: list[float]) -> None:
        self._log_result(progress, candidate, samples)
        self.trials += 1
        before = progress.search.best
        progress.search.observe([(candidate.values, min(samples))])
        if progress.search.best < before:
            progress.chosen = candidate.decision
        progress.history.append(progress.search.best)

    def _skip(self, progress: Progress, values: Values, seconds: float, reason: str) -> None:
        self.trials += 1
        progress.search.observe([(values, seconds)])
        progress.history.append(progress.search.best)
        self._tell("skipped", progress, decision=str(values), reason=reason)

    def _log_result(self, progress: Progress, candidate: Candidate, samples: list[float]) -> None:
        task = progress.task
        module = "" if self._log.of(task.key) else compact(workload_as_json(task.func)[1])
        self._log.add(
            task.key, module, candidate.record, candidate.values, samples, self._fingerprint
        )

    def _tell(self, event: str, progress: Progress, **facts: Any) -> None:
        self._notify(
            {
                "event": event,
                "task": self.tasks.index(progress),
                "trials": len(progress.history),
                "best": progress.search.best,
                "default": progress.default_seconds,
                "model_seconds": self.seconds,
                "trials_left": self.trials_left(),
                **facts,
            }
        )
