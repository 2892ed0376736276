"""Which decision a build takes for a function: the best record of its target, or of the nearest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from tvm import tirx

from compiler.codegen.compile import Decided
from compiler.errors import EdgeccError
from compiler.target import Target, list_targets, load_target
from compiler.tuning.archive import ArchivedLog
from compiler.tuning.log import RECORDS, Record, TuningLog
from compiler.tuning.tasks import workload_key


class Lookup:
    """Finds the decision for a function.

    Functions with the same hash are taken for the same: a decision is one of those that the
    template offers, so that a collision could cost time, but nothing else.

    Args:
        folders: tuning logs, each with a folder or an archive TARGET.tar.gz for each target; those
            that do not exist are left out.
        nearest: take what was measured on similar targets where the target has no record.

    Attributes:
        repaired: what opening the logs had to leave out.
    """

    def __init__(self, target: Target, folders: Iterable[Path], nearest: bool) -> None:
        self.repaired: list[str] = []
        self._logs: list[tuple[str, TuningLog]] = []  # "" or the other target's name
        places = list(dict.fromkeys(folder.resolve() for folder in folders))
        for name in (target.name, *(similar_targets(target) if nearest else ())):
            near = "" if name == target.name else name
            for folder in places:
                if (folder / name / RECORDS).is_file():
                    self._logs.append((near, TuningLog(folder / name)))
                if (archive := folder / f"{name}.tar.gz").is_file():
                    self._logs.append((near, ArchivedLog(archive, name)))
        for _, log in self._logs:
            self.repaired += log.repaired

    def __call__(self, func: tirx.PrimFunc) -> Decided | None:
        """The best decision that a log has for a function, with where it comes from."""
        key = workload_key(func)
        for near, log in self._logs:
            record = best_record(log, log.of(key))
            if record is None:
                continue
            session = log.fingerprints[record.fingerprint]
            if near and session.emulated:
                continue  # an estimate for another CPU is worth less than the template's own
            origin = "emulated" if session.emulated else "measured"
            return Decided(
                record.values, f"{origin} on {near}" if near else origin, session.templates
            )
        return None

    def digest(self) -> str | None:
        """SHA-256 of the logs' records; None without a log."""
        if not self._logs:
            return None
        digest = hashlib.sha256()
        for _, log in self._logs:
            digest.update(log.content(RECORDS))
        return digest.hexdigest()


def best_record(log: TuningLog, records: Sequence[Record]) -> Record | None:
    """The fastest decision by its latest measurement.

    Of records of the template's current version before others, measured before emulated ones.
    """
    latest: dict[tuple[bool, bool, tuple[int, ...]], Record] = {}
    for record in records:
        session = log.fingerprints.get(record.fingerprint)
        if session is not None and record.seconds:
            latest[log.is_outdated(record), session.emulated, record.values] = record
    best = min((key[:2] for key in latest), default=None)
    found = [record for key, record in latest.items() if key[:2] == best]
    return min(found, key=lambda record: record.best, default=None)


def similar_targets(target: Target) -> list[str]:
    """Shipped targets whose decisions may be good ones here, the nearest first."""

    def distance(other: Target) -> float:
        caches = zip(
            (target.caches.l1d, target.caches.l2), (other.caches.l1d, other.caches.l2), strict=True
        )
        between = sum(abs(math.log2((a or 1) / (b or 1))) for a, b in caches)
        return between + (other.vector.fma_per_cycle != target.vector.fma_per_cycle)

    found = []
    for name in list_targets():
        try:
            other = load_target(name)
        except EdgeccError:
            continue  # "host" on a machine that is no target
        same = (other.arch, other.vector.bits, other.vector.registers) == (
            target.arch,
            target.vector.bits,
            target.vector.registers,
        )
        if same and name not in (target.name, "host"):
            found.append((distance(other), name))
    return [name for _, name in sorted(found)]
