"""Logs as archives: what ``edgecc logs export`` writes, and what comes with edgecc.

    TARGET/workload_keys.json    a line a workload: its hash
    TARGET/fingerprints.json     these three as in the folder, see ``compiler.tuning.log``
    TARGET/database_tuning_record.json
    TARGET/database_workload.json

A build needs no modules, which are nine tenths of a log. They come last, so that it unpacks no more
than the beginning.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.tuning.log import FINGERPRINTS, RECORDS, WORKLOADS, TuningLog

KEYS = "workload_keys.json"
MAX_MEMBER_BYTES = 1 << 30  # an archive may come from a stranger
_BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error)


class ArchivedLog(TuningLog):
    """One target's log in an archive, for reading.

    Args:
        archive: the .tar.gz file.
        target: which of its logs.
    """

    def __init__(self, archive: Path, target: str) -> None:
        self._target = target
        super().__init__(archive)

    def _read_workloads(self) -> None:
        keys = self._lines(KEYS)
        for key in keys:
            self._note_key(key)
        if not keys:
            super()._read_workloads()

    def content(self, name: str) -> bytes:
        """A file of the log; empty where there is none."""
        wanted = f"{self._target}/{name}"
        try:
            with tarfile.open(self.folder, "r:gz") as tar:
                for member in tar:  # asking for a name would unpack all of it
                    if member.name == wanted and (file := tar.extractfile(member)) is not None:
                        return file.read()
        except _BROKEN as error:
            raise _unreadable(self.folder, error) from error
        return b""

    def module(self, index: int) -> str:
        """A workload's module in base64."""
        if not self._modules:
            self._modules = [module for _, module in self._lines(WORKLOADS)]
        return self._modules[index]


def pack(logs: Iterable[Path], archive: Path) -> None:
    """Write logs, a folder each, into an archive; the same logs give the same bytes.

    Raises:
        EdgeccError: the archive can't be written.
    """
    temporary = archive.with_name(f".{archive.name}.new")
    try:
        with (
            open(temporary, "wb") as file,
            gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            for path in logs:
                keys = "".join(f"{json.dumps(key)}\n" for key in TuningLog(path).keys)
                _add_member(tar, f"{path.name}/{KEYS}", keys.encode())
                for name in (FINGERPRINTS, RECORDS, WORKLOADS):
                    _add_member(tar, f"{path.name}/{name}", (path / name).read_bytes())
        temporary.replace(archive)
    except OSError as error:
        raise EdgeccError(f"can't write {archive}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's logs into a folder.

    Raises:
        EdgeccError: it is no such archive.
    """
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                parts = Path(member.name).parts
                known = len(parts) == 2 and parts[1] in (KEYS, WORKLOADS, RECORDS, FINGERPRINTS)
                safe = known and parts[0] not in ("..", "/") and member.isfile()
                if not safe or member.size > MAX_MEMBER_BYTES:
                    raise EdgeccError(
                        f"{archive}: '{member.name}' does not belong into an archive of logs",
                        "`edgecc logs export` writes them",
                    )
                if parts[1] == KEYS:
                    continue  # follows from the others
                data = tar.extractfile(member)
                assert data is not None
                (folder / parts[0]).mkdir(exist_ok=True)
                (folder / parts[0] / parts[1]).write_bytes(data.read())
    except _BROKEN as error:
        raise _unreadable(archive, error) from error


def _unreadable(archive: Path, error: Exception) -> EdgeccError:
    return EdgeccError(
        f"{archive} can't be read: {error}", "`edgecc logs export` writes such archives"
    )
