"""What was measured: one folder a target, in MetaSchedule's JSON database format.

    database_workload.json       a line a workload: [hash, base64 of the module]
    database_tuning_record.json  a line a measurement: [workload, record]
    fingerprints.json            a line a session: on what machine, with which versions

``tvm.s_tir.meta_schedule.database.JSONDatabase(work_dir=folder)`` reads the first two. The tag of a
record's target names the session and the template, "SESSION/TEMPLATE". Lines are appended in one
write each, so that a process that is killed leaves at most one torn line, the last; it is cut off
when the log is next opened for writing (``compiler.tuning.log_writer``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import EdgeccError
from schedules.registry import VERSIONS

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
FINGERPRINTS = "fingerprints.json"
FAILED_SECONDS = 1e10  # MetaSchedule's for a candidate that could not be measured


@dataclass(frozen=True)
class Fingerprint:
    """The circumstances of a session's measurements.

    Args:
        runner: "local", "ssh", "rpc" or "emulated".
        facts: instruction set, caches, cores, threads, clock, governor, versions.
        templates: version of each schedule template.
    """

    runner: str
    facts: dict[str, Any]
    templates: dict[str, int]

    @property
    def emulated(self) -> bool:
        """Whether times are estimates from counts."""
        return self.runner == "emulated"

    @property
    def identity(self) -> str:
        """A short name that follows from the content."""
        text = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def as_json(self) -> dict[str, Any]:
        return {"runner": self.runner, "facts": self.facts, "templates": self.templates}


@dataclass(frozen=True)
class Record:
    """One measured candidate.

    Args:
        workload: index into the log's workloads.
        values: of the decision, as the template lists them.
        seconds: samples; empty for a candidate that failed.
        fingerprint: identity of the session's.
        template: that offered the decision; "" where the log does not say.
        body: the record as MetaSchedule has it: [trace, seconds, target, arguments].
    """

    workload: int
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    fingerprint: str
    template: str
    body: list[Any]

    @property
    def best(self) -> float:
        """Seconds: the least of the samples, since noise only adds; infinite for a failure."""
        return min(self.seconds, default=math.inf)


class TuningLog:
    """The records of one target, for reading.

    Args:
        folder: need not exist.

    Attributes:
        keys: of the workloads, in the order in which records count them.
        lost: records whose workload is missing.
        repaired: what was left out on opening, a line each for people.

    Raises:
        EdgeccError: a file can't be read, or a line before the last is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repaired: list[str] = []
        self.lost = 0
        self.keys: list[str] = []
        self.records: list[Record] = []
        self.fingerprints: dict[str, Fingerprint] = {}
        self._modules: list[str] = []
        self._index: dict[str, int] = {}
        self._by_workload: dict[int, list[Record]] = {}
        for row in self._lines(FINGERPRINTS):
            found = Fingerprint(row["runner"], row["facts"], row["templates"])
            self.fingerprints[found.identity] = found
        self._read_workloads()
        for index, body in self._lines(RECORDS):
            if index < len(self.keys):
                self._note(_record(self._index[self.keys[index]], body))
            else:
                self.lost += 1
        if self.lost:
            self.repaired.append(f"{folder}: left out {self.lost} records of lost workloads")

    def _read_workloads(self) -> None:
        """Fill ``keys``, and ``_modules`` if that is cheap."""
        for key, module in self._lines(WORKLOADS):
            self._note_key(key)
            self._modules.append(module)

    def _note_key(self, key: str) -> None:
        self._index.setdefault(key, len(self.keys))
        self.keys.append(key)

    def _note(self, record: Record) -> None:
        self.records.append(record)
        self._by_workload.setdefault(record.workload, []).append(record)

    def content(self, name: str) -> bytes:
        """A file of the log; empty where there is none."""
        path = self.folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise EdgeccError(f"can't read {path}: {error.strerror}") from error

    def _lines(self, name: str) -> list[Any]:
        path, data = self.folder / name, self.content(name)
        rows = []
        whole, _, torn = data.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise EdgeccError(
                    f"{path}: line {number} is not JSON",
                    "remove that line, or restore the file",
                ) from error
        if torn:
            self._torn(name, len(data) - len(torn))
        return rows

    def _torn(self, name: str, end: int) -> None:
        """What a file holds behind ``end`` is no whole line."""
        self.repaired.append(f"{self.folder / name}: left out a torn last line")

    def module(self, index: int) -> str:
        """A workload's module in base64, see ``compact``."""
        return self._modules[index]

    def is_outdated(self, record: Record) -> bool:
        """Whether a record is of an earlier version of its template, as far as the log says."""
        template = record.template
        return template != "" and self.versions(record).get(template) != VERSIONS.get(template)

    def versions(self, record: Record) -> dict[str, int]:
        """Of the templates, when it was measured."""
        session = self.fingerprints.get(record.fingerprint)
        return session.templates if session is not None else {}

    def of(self, key: str) -> list[Record]:
        """All records of a workload, in the order in which they were measured."""
        return self._by_workload.get(self._index.get(key, -1), [])


def _record(index: int, body: list[Any]) -> Record:
    trace, seconds, target, _ = body
    samples = tuple(s for s in seconds if s < FAILED_SECONDS)
    identity, _, template = target.get("tag", "").partition("/")
    return Record(index, _sampled(trace), samples, identity, template, body)


def _sampled(trace: list[Any]) -> tuple[int, ...]:
    """The values of a trace's decisions."""
    instructions, decisions = trace
    found = []
    for position, choice in decisions:
        name, _, attributes, _ = instructions[position]
        if name == "SampleCategorical":
            found.append(int(attributes[0][choice]))
    return tuple(found)


def compact(module: str) -> str:
    """MetaSchedule's base64 of a module without the white space of its JSON: half the size."""
    data = base64.b64decode(module)
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8 : 8 + length]), separators=(",", ":")).encode()
    return base64.b64encode(len(text).to_bytes(8, "little") + text).decode()
