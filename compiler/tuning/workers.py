"""Processes of ours that may die, hang or eat memory without taking the tuner with them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

# Of one worker's address space; TVM and LLVM map two before they do anything.
MEMORY_BYTES = 8 << 30
PR_SET_PDEATHSIG = 1

__all__ = ["BrokenProcessPool", "WorkerPool"]


class WorkerPool:
    """Pebble's pool, replaced when it breaks.

    It breaks where a worker is killed while no task runs: that fails all tasks that wait, with
    ``BrokenProcessPool``. A worker that dies of its task fails that one only.

    Args:
        processes: workers.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: Any = None
        # Workers end with the thread that starts them, not with its process.
        self._starter = ThreadPoolExecutor(1)

    def schedule(
        self, function: Callable[..., Any], args: tuple[Any, ...] = (), timeout: float | None = None
    ) -> Future[Any]:
        """Call a function in a worker.

        Args:
            timeout: seconds after which the worker is killed.
        """
        return self._starter.submit(self._schedule, function, args, timeout).result()

    def _schedule(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Future[Any]:
        try:
            if self._pool is not None:
                return self._pool.schedule(function, args, timeout=timeout)
        except RuntimeError:  # it has broken
            self._stop()
        from pebble import ProcessPool

        self._pool = ProcessPool(
            self._processes,
            initializer=_prepare,
            initargs=(os.getpid(),),
            context=multiprocessing.get_context("spawn"),
        )
        return self._pool.schedule(function, args, timeout=timeout)

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()

    def close(self) -> None:
        """End the workers."""
        self._starter.shutdown()
        self._stop()


def _prepare(parent: int) -> None:
    """Leave Ctrl-C to the parent, end with it, and take no more than a share of the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that took effect
        os._exit(1)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
