"""What was measured: one folder a target, in MetaSchedule's JSON database format.

    database_workload.json       a line a workload: [hash, base64 of the module]
    database_tuning_record.json  a line a measurement: [workload, record]
    fingerprints.json            a line a session: on what machine, with which versions

``tvm.s_tir.meta_schedule.database.JSONDatabase(work_dir=folder)`` reads the first two. The tag of a
record's target names the session. Lines are appended in one write each, so that a process that is
killed leaves at most one torn line, the last; it is cut off when the log is opened next.
"""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.errors import EdgeccError

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
FINGERPRINTS, LOCK = "fingerprints.json", ".lock"
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
        body: the record as MetaSchedule has it: [trace, seconds, target, arguments].
    """

    workload: int
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    fingerprint: str
    body: list[Any]

    @property
    def best(self) -> float:
        """Seconds: the least of the samples, since noise only adds; infinite for a failure."""
        return min(self.seconds, default=math.inf)


class TuningLog:
    """The records of one target.

    Args:
        folder: made when something is written.

    Attributes:
        repaired: what was cut off on opening, a line each for people.

    Raises:
        EdgeccError: a file can't be read, or a line before the last is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repaired: list[str] = []
        self.workloads: list[tuple[str, str]] = []
        self.records: list[Record] = []
        self.fingerprints: dict[str, Fingerprint] = {}
        self._index: dict[str, int] = {}
        self._lock: int | None = None
        self._read()

    def _read(self) -> None:
        for row in self._lines(FINGERPRINTS):
            found = Fingerprint(row["runner"], row["facts"], row["templates"])
            self.fingerprints[found.identity] = found
        for key, module in self._lines(WORKLOADS):
            self._index.setdefault(key, len(self.workloads))
            self.workloads.append((key, module))
        for index, body in self._lines(RECORDS):
            if index >= len(self.workloads):
                self.repaired.append(f"{self.folder}: a record of a lost workload left out")
                continue
            self.records.append(_record(index, body))

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
            self.repaired.append(f"{path}: cut off a torn last line")
        return rows

    def __enter__(self) -> TuningLog:
        """Take the log for writing.

        Raises:
            EdgeccError: somebody else writes, or the folder can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise EdgeccError(
                f"{self.folder}: another process is tuning into it",
                "wait for it, or give --tuning-logs another folder; `edgecc logs merge` joins them",
            ) from error
        except OSError as error:
            self._unlock()
            raise EdgeccError(f"can't write {self.folder}: {error.strerror}") from error
        self.workloads, self.records, self._index = [], [], {}
        self._cut_torn_lines()
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _cut_torn_lines(self) -> None:
        for name in (WORKLOADS, RECORDS, FINGERPRINTS):
            path = self.folder / name
            if path.exists():
                data = path.read_bytes()
                end = data.rfind(b"\n") + 1
                if end < len(data):
                    os.truncate(path, end)

    def _append(self, name: str, row: Any) -> None:
        line = (json.dumps(row, separators=(",", ":")) + "\n").encode()
        file = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(file, line)
            if written < len(line):  # a full disk
                os.ftruncate(file, os.fstat(file).st_size - written)
                raise EdgeccError(f"can't write {self.folder / name}: the disk is full")
        finally:
            os.close(file)

    def add_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Write a session's circumstances, before its first record."""
        if fingerprint.identity not in self.fingerprints:
            self.fingerprints[fingerprint.identity] = fingerprint
            self._append(FINGERPRINTS, fingerprint.as_json())

    def add(
        self,
        key: str,
        module: str,
        record: dict[str, Any],
        values: tuple[int, ...],
        seconds: Iterable[float],
        fingerprint: Fingerprint,
    ) -> None:
        """Append one measurement.

        Args:
            key, module: of the workload; ``module`` is base64, see ``compact``.
            record: trace, target and arguments of the candidate.
            values: of the decision.
            seconds: samples; none for a candidate that failed.
        """
        samples = tuple(seconds)
        target = {**record["target"], "tag": fingerprint.identity}
        body = [record["trace"], list(samples or (FAILED_SECONDS,)), target, record["arguments"]]
        self._add(key, module, Record(0, values, samples, fingerprint.identity, body))

    def adopt(self, source: TuningLog, record: Record) -> None:
        """Append a record of another log, with what it needs of that log."""
        if record.fingerprint in source.fingerprints:
            self.add_fingerprint(source.fingerprints[record.fingerprint])
        self._add(*source.workloads[record.workload], record)

    def _add(self, key: str, module: str, record: Record) -> None:
        if key not in self._index:
            self._append(WORKLOADS, [key, module])
            self._index[key] = len(self.workloads)
            self.workloads.append((key, module))
        index = self._index[key]
        self._append(RECORDS, [index, record.body])
        self.records.append(dataclasses.replace(record, workload=index))

    def of(self, key: str) -> list[Record]:
        """All records of a workload, in the order in which they were measured."""
        index = self._index.get(key)
        return [record for record in self.records if record.workload == index]

    def rewrite(self, records: Iterable[Record]) -> None:
        """Keep only these of its records.

        Workloads stay, even those without a record: with new numbers for them two files would
        have to change in one step.
        """
        self.records = list(records)
        temporary = self.folder / f".{RECORDS}.new"
        rows = (json.dumps([r.workload, r.body], separators=(",", ":")) for r in self.records)
        temporary.write_text("".join(f"{row}\n" for row in rows), encoding="ascii")
        temporary.replace(self.folder / RECORDS)


class ArchivedLog(TuningLog):
    """One target's log in an archive, for reading; see ``compiler.tuning.manage.export``.

    Args:
        archive: the .tar.gz file.
        target: which of its logs.
    """

    def __init__(self, archive: Path, target: str) -> None:
        self._target = target
        super().__init__(archive)

    def content(self, name: str) -> bytes:
        """A file of the log; empty where there is none."""
        try:
            with tarfile.open(self.folder, "r:gz") as tar:
                file = tar.extractfile(f"{self._target}/{name}")
                return file.read() if file is not None else b""
        except KeyError:
            return b""
        except (OSError, EOFError, tarfile.TarError) as error:
            raise EdgeccError(
                f"{self.folder} can't be read: {error}", "`edgecc logs export` writes such archives"
            ) from error


def _record(index: int, body: list[Any]) -> Record:
    trace, seconds, target, _ = body
    samples = tuple(s for s in seconds if s < FAILED_SECONDS)
    return Record(index, _sampled(trace), samples, target.get("tag", ""), body)


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
