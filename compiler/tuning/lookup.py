"""Which decision a build takes for a function: the best record of its target, or of the nearest."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import tvm_ffi
from tvm import tirx
from tvm.s_tir import meta_schedule as ms

from compiler.codegen.compile import Decided
from compiler.errors import EdgeccError
from compiler.target import Target, list_targets, load_target
from compiler.tuning.log import RECORDS, ArchivedLog, Record, TuningLog
from compiler.tuning.tasks import workload, workload_key


class Lookup:
    """Finds the decision for a function.

    Args:
        folders: tuning logs, each with a folder or an archive TARGET.tar.gz for each target; those
            that do not exist are left out.
        nearest: take records of similar targets where the target has none.

    Attributes:
        repaired: what opening the logs had to leave out.
    """

    def __init__(self, target: Target, folders: Iterable[Path], nearest: bool) -> None:
        self.repaired: list[str] = []
        self._logs: list[tuple[str, TuningLog]] = []  # "" or the other target's name
        self._lock = threading.Lock()
        self._checked: dict[tuple[int, str], bool] = {}
        names = [target.name, *(similar_targets(target) if nearest else ())]
        for name in names:
            near = "" if name == target.name else name
            for folder in dict.fromkeys(folders):
                if (folder / name / RECORDS).is_file():
                    log = TuningLog(folder / name)
                    self.repaired += log.repaired
                    self._logs.append((near, log))
                if (archive := folder / f"{name}.tar.gz").is_file():
                    self._logs.append((near, ArchivedLog(archive, name)))

    def __call__(self, func: tirx.PrimFunc) -> Decided | None:
        """The best decision that a log has for a function, with where it comes from."""
        key = workload_key(func)
        for near, log in self._logs:
            record = best_record(log, log.of(key))
            if record is None or not self._is_same(log, record, key, func):
                continue
            session = log.fingerprints[record.fingerprint]
            origin = "emulated" if session.emulated else "measured"
            return Decided(
                record.values, f"{origin} on {near}" if near else origin, session.templates
            )
        return None

    def _is_same(self, log: TuningLog, record: Record, key: str, func: tirx.PrimFunc) -> bool:
        """Whether the workload is the function, and not another one with the same hash."""
        with self._lock:
            place = (id(log), key)
            if place not in self._checked:
                known = ms.database.Workload.from_json(list(log.workloads[record.workload]))
                self._checked[place] = tvm_ffi.structural_equal(known.mod, workload(func))
            return self._checked[place]

    def digest(self) -> str | None:
        """SHA-256 of the logs' records; None without a log."""
        if not self._logs:
            return None
        digest = hashlib.sha256()
        for _, log in self._logs:
            digest.update(log.content(RECORDS))
        return digest.hexdigest()


def best_record(log: TuningLog, records: Sequence[Record]) -> Record | None:
    """The fastest decision by its latest measurement; measured ones before emulated ones."""
    latest: dict[tuple[bool, tuple[int, ...]], Record] = {}
    for record in records:
        session = log.fingerprints.get(record.fingerprint)
        if session is not None and record.seconds:
            latest[session.emulated, record.values] = record
    emulated = min((key[0] for key in latest), default=False)
    found = [record for key, record in latest.items() if key[0] == emulated]
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
