"""Builds candidates in other processes: a pool here, or a Dask cluster."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from compiler.errors import EdgeccError
from compiler.tuning.candidates import Candidate, Request, build

TIMEOUT_SECONDS = 60.0
# Of one worker's address space; TVM and LLVM map two before they do anything.
MEMORY_BYTES = 8 << 30
PR_SET_PDEATHSIG = 1


class Builders(Protocol):
    """Where candidates are built."""

    name: str

    def build(self, requests: Sequence[Request]) -> Iterator[Candidate | str]:
        """A candidate for each request, or why there is none, in the requests' order."""

    def close(self) -> None:
        """End everything that was started."""


class LocalBuilders:
    """Processes on this machine; one that crashes or hangs costs its candidate."""

    def __init__(self, processes: int | None = None) -> None:
        from pebble import ProcessPool

        self.processes = processes or os.cpu_count() or 1
        self.name = f"{self.processes} local processes"
        self._pool = ProcessPool(
            self.processes,
            initializer=prepare_worker,
            initargs=(os.getpid(),),
            context=multiprocessing.get_context("spawn"),
        )

    def build(self, requests: Sequence[Request]) -> Iterator[Candidate | str]:
        futures = [self._pool.schedule(build, (r,), timeout=TIMEOUT_SECONDS) for r in requests]
        try:
            for future in futures:
                yield _outcome(future)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


class DaskBuilders:
    """Workers of a Dask cluster that have this version of edgecc installed.

    Args:
        address: of the scheduler, tcp://HOST:PORT.

    Raises:
        EdgeccError: ``distributed`` is not installed, or nobody answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise EdgeccError(
                f"--builders {address}: Dask is not installed", "pip install 'edgecc[cluster]'"
            ) from error
        try:
            self._client: Any = distributed.Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise EdgeccError(
                f"--builders {address}: no Dask scheduler answers", "start one: dask scheduler"
            ) from error
        self.name = f"Dask at {address}"

    def build(self, requests: Sequence[Request]) -> Iterator[Candidate | str]:
        futures = [self._client.submit(build, r, pure=False, retries=1) for r in requests]
        try:
            for future in futures:
                yield _outcome(future)
        finally:
            self._client.cancel(futures)

    def close(self) -> None:
        self._client.close()


def _outcome(future: Any) -> Candidate | str:
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, TimeoutError):
            return f"not built in {TIMEOUT_SECONDS:g} s"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[-1][:200]


def prepare_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, end with it, and take no more than a share of the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that took effect
        os._exit(1)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def make_builders(address: str | None, processes: int | None = None) -> Builders:
    """The pool here, or the cluster at an address."""
    return DaskBuilders(address) if address else LocalBuilders(processes)
