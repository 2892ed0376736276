"""Builds candidates in other processes: a pool here, or a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from compiler.errors import EdgeccError
from compiler.tuning.candidates import Candidate, Request, build
from compiler.tuning.workers import WorkerPool

TIMEOUT_SECONDS = 60.0


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
        self.processes = processes or os.cpu_count() or 1
        self.name = f"{self.processes} local processes"
        self._pool = WorkerPool(self.processes)

    def build(self, requests: Sequence[Request]) -> Iterator[Candidate | str]:
        futures = [self._pool.schedule(build, (r,), TIMEOUT_SECONDS) for r in requests]
        try:
            for future in futures:
                yield _outcome(future)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        self._pool.close()


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


def make_builders(address: str | None, processes: int | None = None) -> Builders:
    """The pool here, or the cluster at an address."""
    return DaskBuilders(address) if address else LocalBuilders(processes)
