"""Adding to a log: one writer at a time, and whole lines only."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.errors import EdgeccError
from compiler.tuning.log import (
    FAILED_SECONDS,
    FINGERPRINTS,
    RECORDS,
    WORKLOADS,
    Fingerprint,
    Record,
    TuningLog,
)

LOCK = ".lock"


class LogWriter(TuningLog):
    """The records of one target, for whoever holds them alone.

    What is torn is cut off.

    Args:
        folder: is made.

    Raises:
        EdgeccError: somebody else writes, or the folder can't be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = _lock(folder)
        try:
            super().__init__(folder)
            if self.lost:  # the next workload would get their number
                self.rewrite(self.records)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def _torn(self, name: str, end: int) -> None:
        os.truncate(self.folder / name, end)
        self.repaired.append(f"{self.folder / name}: cut off a torn last line")

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
            key, module: of the workload; ``module`` is base64, see ``compiler.tuning.log.compact``.
            record: trace, target, arguments and template of the candidate.
            values: of the decision.
            seconds: samples; none for a candidate that failed.
        """
        samples = tuple(seconds)
        identity, template = fingerprint.identity, record["template"]
        target = {**record["target"], "tag": f"{identity}/{template}"}
        body = [record["trace"], list(samples or (FAILED_SECONDS,)), target, record["arguments"]]
        self._add(key, module, Record(0, values, samples, identity, template, body))

    def adopt(self, source: TuningLog, record: Record) -> None:
        """Append a record of another log, with what it needs of that log."""
        if record.fingerprint in source.fingerprints:
            self.add_fingerprint(source.fingerprints[record.fingerprint])
        self._add(source.keys[record.workload], source.module(record.workload), record)

    def _add(self, key: str, module: str, record: Record) -> None:
        if key not in self._index:
            self._append(WORKLOADS, [key, module])
            self._note_key(key)
            self._modules.append(module)
        index = self._index[key]
        self._append(RECORDS, [index, record.body])
        self._note(dataclasses.replace(record, workload=index))

    def rewrite(self, records: Iterable[Record]) -> None:
        """Keep only these of its records.

        Workloads stay, even those without a record: with new numbers for them two files would
        have to change in one step.
        """
        kept = list(records)
        temporary = self.folder / f".{RECORDS}.new"
        rows = (json.dumps([r.workload, r.body], separators=(",", ":")) for r in kept)
        temporary.write_text("".join(f"{row}\n" for row in rows), encoding="ascii")
        temporary.replace(self.folder / RECORDS)
        self.records, self._by_workload = [], {}
        for record in kept:
            self._note(record)


def _lock(folder: Path) -> int:
    """The descriptor that holds the folder."""
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except OSError as error:
        if lock is not None:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise EdgeccError(
                f"{folder}: another process is tuning into it",
                "wait for it, or give --tuning-logs another folder; `edgecc logs merge` joins them",
            ) from error
        raise EdgeccError(f"can't write {folder}: {error.strerror}") from error
