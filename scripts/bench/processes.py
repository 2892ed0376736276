"""The driver's side of an engine's process: one is running, all others are stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .engines import Engine

ROOT = Path(__file__).resolve().parents[2]
CPUS = Path("/sys/devices/system/cpu")
SECONDS = 900.0  # for any one answer


class EngineError(Exception):
    """An engine refused, crashed or took too long; one line."""


class Process:
    """An engine in a process of its own, stopped (SIGSTOP) whenever it is not asked something.

    Thread pools of idle engines would otherwise spin on the cores of the one that is timed.

    Args:
        log: file that takes what the engine prints.
        threads: what OMP_NUM_THREADS is set to.
    """

    def __init__(self, engine: type[Engine], log: Path, threads: int = 1) -> None:
        self._log = log.open("a")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "scripts.bench.worker",
                f"{engine.__module__}:{engine.__qualname__}",
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._buffer = b""

    def ask(self, do: str, limit: float = SECONDS, **arguments: Any) -> Any:
        """Lets the process run, for one answer.

        Args:
            limit: seconds to wait.

        Raises:
            EngineError: its words, or how it ended.
        """
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise EngineError(self._ending()) from None
        answer = json.loads(self._line(limit))
        self._process.send_signal(signal.SIGSTOP)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Ends the process, running or stopped."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # unsent words of a process that is gone
                    continue

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._process.kill()
                raise EngineError(f"no answer in {seconds:.0f} s")
            block = os.read(self._process.stdout.fileno(), 1 << 16)
            if not block:
                raise EngineError(self._ending())
            self._buffer += block
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _ending(self) -> str:
        status = self._process.wait()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended ({status})"


def choose_cpus(count: int) -> list[int]:
    """CPUs to pin to: the first ones allowed, each on a core of its own.

    Raises:
        EngineError: there are fewer cores.
    """
    chosen, taken = [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            core = (CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            core = str(cpu)
        if core not in taken:
            taken.add(core)
            chosen.append(cpu)
    if len(chosen) < count:
        raise EngineError(f"{count} threads: this process may use {len(chosen)} cores")
    return chosen[:count]
