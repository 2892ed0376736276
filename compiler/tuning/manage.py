"""What people do with logs: look at them, join them, thin them out, carry them around."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.tuning.log import FINGERPRINTS, RECORDS, WORKLOADS, Record, TuningLog
from compiler.tuning.lookup import best_record

MAX_MEMBER_BYTES = 1 << 30  # of an archive: it may come from a stranger


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
    by_workload: dict[int, list[Record]] = {}
    for record in log.records:
        by_workload.setdefault(record.workload, []).append(record)
    best = (best_record(log, records) for records in by_workload.values())
    return [record for record in best if record is not None]


def prune(folder: Path) -> tuple[int, int]:
    """Keep the best record of each workload; returns how many there were and are."""
    with TuningLog(folder) as log:
        before = len(log.records)
        log.rewrite(best_records(log))
        return before, len(log.records)


def merge(sources: Iterable[Path], into: Path) -> dict[str, int]:
    """Take over the best records of other logs where they are better; returns how many by target.

    Args:
        sources: logs, or folders of them.
        into: folder of logs.
    """
    taken: dict[str, int] = {}
    for folder in [path for source in sources for path in logs_in(source)]:
        source = TuningLog(folder)
        with TuningLog(into / folder.name) as log:
            for record in best_records(source):
                key = source.workloads[record.workload][0]
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
    return (theirs, record.best) < (ours, known.best)


def export(folder: Path, archive: Path) -> int:
    """Write the best records of a folder of logs to a .tar.gz; returns how many.

    The same logs give the same bytes.
    """
    with tempfile.TemporaryDirectory(prefix="edgecc-logs-") as work:
        taken = merge([folder], Path(work))
        temporary = archive.with_name(f".{archive.name}.new")
        try:
            with (
                open(temporary, "wb") as file,
                gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w") as tar,
            ):
                for path in logs_in(Path(work)):
                    for name in (WORKLOADS, RECORDS, FINGERPRINTS):
                        _add_member(tar, f"{path.name}/{name}", (path / name).read_bytes())
            temporary.replace(archive)
        except OSError as error:
            raise EdgeccError(f"can't write {archive}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
    return sum(taken.values())


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def import_archive(archive: Path, into: Path) -> dict[str, int]:
    """Merge what ``export`` wrote; returns how many records were taken, by target.

    Raises:
        EdgeccError: it is no such archive.
    """
    wanted = {WORKLOADS, RECORDS, FINGERPRINTS}
    with tempfile.TemporaryDirectory(prefix="edgecc-logs-") as work:
        try:
            with tarfile.open(archive, "r:*") as tar:
                for member in tar:
                    parts = Path(member.name).parts
                    known = len(parts) == 2 and parts[1] in wanted and parts[0] not in ("..", "/")
                    if not (member.isfile() and known and member.size <= MAX_MEMBER_BYTES):
                        raise EdgeccError(
                            f"{archive}: '{member.name}' does not belong into an archive of logs",
                            "`edgecc logs export` writes them",
                        )
                    data = tar.extractfile(member)
                    assert data is not None
                    (Path(work) / parts[0]).mkdir(exist_ok=True)
                    (Path(work) / parts[0] / parts[1]).write_bytes(data.read())
        except (OSError, tarfile.TarError, EOFError) as error:
            raise EdgeccError(
                f"{archive} can't be read: {error}", "`edgecc logs export` writes such archives"
            ) from error
        return merge([Path(work)], into)
