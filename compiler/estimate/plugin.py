"""Builds the counting plugin and runs programs under it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.estimate.counts import Counts
from compiler.package.link import cache_dir
from compiler.package.runner import problem
from compiler.target import Caches

_FOLDER = Path(__file__).parent
_SOURCES = ("plugin.c", "cache.c", "classify.c", "classify_text.c")
_HEADERS = ("plugin.h", "qemu_plugin.h")
_FLAGS = ("-shared", "-fPIC", "-O2", "-g0", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra")


def build_plugin(cache: Path | None = None) -> Path:
    """The plugin for this machine's qemu, compiled on first use and kept.

    Args:
        cache: folder to keep it in instead of the user's cache.
    Raises:
        EdgeccError: no C compiler, or it fails.
    """
    digest = hashlib.sha256()
    for name in (*_HEADERS, *_SOURCES):
        digest.update((_FOLDER / name).read_bytes())
    digest.update(" ".join((*_FLAGS, os.uname().machine)).encode())
    plugin = (cache or cache_dir()) / f"estimate-{digest.hexdigest()[:16]}.so"
    if plugin.is_file():
        return plugin
    try:
        plugin.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=plugin.parent, prefix="estimate-") as work:
            _compile(Path(work) / "plugin.so")
            # Renamed when complete: another process may be looking for it.
            (Path(work) / "plugin.so").replace(plugin)
    except OSError as error:
        raise EdgeccError(
            f"can't write {plugin}: {error.strerror or error}",
            "EDGECC_CACHE_DIR names another cache folder",
        ) from error
    return plugin


def _compile(output: Path) -> None:
    command = [*_compiler(), *_FLAGS, *(str(_FOLDER / name) for name in _SOURCES)]
    # ziglang wants a cache; next to the output it goes away with it.
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(output.parent / "zig")}
    environment["ZIG_LOCAL_CACHE_DIR"] = environment["ZIG_GLOBAL_CACHE_DIR"]
    done = subprocess.run(
        [*command, "-o", str(output)], env=environment, capture_output=True, text=True, check=False
    )
    if "No module named ziglang" in done.stderr:
        raise EdgeccError("no C compiler for the counting plugin", "pip install ziglang")
    if done.returncode:
        detail = done.stderr.strip() or f"exit status {done.returncode}"
        raise EdgeccError(f"{command[0]} can't compile the counting plugin: {detail}")


def _compiler() -> list[str]:
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    return [sys.executable, "-m", "ziglang", "cc"]


def count(
    emulator: Sequence[str],
    program: Sequence[str],
    caches: Caches,
    folder: Path,
    plugin: Path | None = None,
    timeout: float | None = None,
) -> list[Counts]:
    """Runs a program that makes marks (see plugin.c) and returns what lies between them.

    Args:
        emulator: command of a user-mode QEMU, without the program.
        program: the program and its arguments.
        caches: the L1D and L2 to simulate.
        folder: the working folder; keeps the plugin's output.
        plugin: from ``build_plugin``, which is called where it is left out.
        timeout: seconds.
    Raises:
        EdgeccError: the emulator takes no such plugin, or the program fails or does not finish.
    """
    out = folder / "counts.txt"
    options = [
        str(plugin or build_plugin()),
        f"out={out}",
        f"l1d={caches.l1d}:{caches.l1d_ways}",
        f"l2={caches.l2}:{caches.l2_ways}",
        f"line={caches.line}",
    ]
    command = [*emulator, "-plugin", ",".join(text.replace(",", ",,") for text in options)]
    try:
        done = subprocess.run(
            [*command, *program],
            cwd=folder,
            env={},  # the guest's stack holds it, and must be the same everywhere
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise EdgeccError(f"{emulator[0]} is not installed", "apt-get install qemu-user") from error
    except subprocess.TimeoutExpired as error:
        raise EdgeccError(f"{program[0]} did not finish in {timeout:g} s") from error
    if done.returncode:
        raise _failure(emulator[0], done)
    return [Counts.parse(line) for line in out.read_text(encoding="ascii").splitlines()]


def _failure(emulator: str, done: subprocess.CompletedProcess[str]) -> EdgeccError:
    text = done.stderr
    if "plugin" in text or "unknown option" in text:  # QEMU's own words
        return EdgeccError(
            f"{emulator} does not take the counting plugin: {text.strip()}",
            "it needs a user-mode QEMU 6.0 to 8.2 that was built with plugins, like Debian 12's "
            "qemu-user",
        )
    return EdgeccError(f"under {emulator}: {problem(done)}")
