"""What people do with logs: look at them, join them, thin them out, carry them around."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.target import Target
from compiler.tuning.archive import pack, unpack
from compiler.tuning.log import RECORDS, WORKLOADS, Record, TuningLog
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.lookup import best_record
from compiler.tuning.tasks import offered, read_workload
from schedules.registry import VERSIONS


@dataclass(frozen=True)
class Summary:
    """What a log holds.

    Args:
        measured, emulated, failed: records.
        sessions: runs of the tuner.
    """

    target: str
    workloads: int
    measured: int
    emulated: int
    failed: int
    sessions: int
    nbytes: int


def logs_in(folder: Path) -> list[Path]:
    """The logs in a folder of logs, by target; a folder that is a log itself counts as one."""
    if (folder / RECORDS).is_file():
        return [folder]
    if not folder.is_dir():
        raise EdgeccError(f"no tuning logs in {folder}", "`edgecc tune` makes them")
    return sorted(path.parent for path in folder.glob(f"*/{RECORDS}"))


def summarize(folder: Path) -> Summary:
    """Count one log."""
    log = TuningLog(folder)
    measured = emulated = failed = 0
    for record in log.records:
        session = log.fingerprints.get(record.fingerprint)
        if not record.seconds or session is None:
            failed += 1
        elif session.emulated:
            emulated += 1
        else:
            measured += 1
    nbytes = sum((folder / name).stat().st_size for name in (WORKLOADS, RECORDS))
    used = {record.workload for record in log.records}
    return Summary(
        folder.name, len(used), measured, emulated, failed, len(log.fingerprints), nbytes
    )


def best_records(log: TuningLog) -> list[Record]:
    """The record that a build takes, for each workload."""
    best = (best_record(log, log.of(key)) for key in dict.fromkeys(log.keys))
    return [record for record in best if record is not None and not log.is_outdated(record)]


def prune(folder: Path) -> tuple[int, int]:
    """Keep the best record of each workload; returns how many there were and are."""
    with LogWriter(folder) as log:
        before = len(log.records)
        log.rewrite(best_records(log))
        return before, len(log.records)


def drop_outdated(folder: Path, target: Target) -> int:
    """Remove records of decisions that templates no longer offer; returns how many."""
    with LogWriter(folder) as log:
        kept = []
        for key in dict.fromkeys(log.keys):
            records = log.of(key)
            if records:
                func = read_workload(key, log.module(records[0].workload))
                template, space = offered(func, target)
                rows = space.rows if space else ()
                kept += [
                    r
                    for r in records
                    if log.versions(r).get(template) == VERSIONS[template] and r.values in rows
                ]
        dropped = len(log.records) - len(kept)
        log.rewrite(kept)
    return dropped


def merge(sources: Iterable[Path], into: Path) -> dict[str, int]:
    """Take over the best records of other logs where they are better; returns how many by target.

    Args:
        sources: logs, or folders of them.
        into: folder of logs.
    """
    taken: dict[str, int] = {}
    for folder in [path for source in sources for path in logs_in(source)]:
        source = TuningLog(folder)
        with LogWriter(into / folder.name) as log:
            for record in best_records(source):
                key = source.keys[record.workload]
                if _is_better(source, record, log, best_record(log, log.of(key))):
                    log.adopt(source, record)
                    taken[folder.name] = taken.get(folder.name, 0) + 1
    return taken


def _is_better(source: TuningLog, record: Record, log: TuningLog, known: Record | None) -> bool:
    """Whether a build should take the record: measured before emulated, then the faster one."""
    if known is None:
        return True
    theirs = source.fingerprints[record.fingerprint].emulated
    ours = log.fingerprints[known.fingerprint].emulated
    return (False, theirs, record.best) < (log.is_outdated(known), ours, known.best)


def export(folder: Path, archive: Path) -> int:
    """Write the best records of a folder of logs to a .tar.gz; returns how many."""
    with tempfile.TemporaryDirectory(prefix="edgecc-logs-") as work:
        taken = merge([folder], Path(work))
        pack(logs_in(Path(work)), archive)
    return sum(taken.values())


def import_archive(archive: Path, into: Path) -> dict[str, int]:
    """Merge what ``export`` wrote; returns how many records were taken, by target.

    Raises:
        EdgeccError: it is no such archive.
    """
    with tempfile.TemporaryDirectory(prefix="edgecc-logs-") as work:
        unpack(archive, Path(work))
        return merge([Path(work)], into)
