"""Processes of ours that may die, hang or eat memory without taking the tuner with them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

# Of one worker's address space; TVM and LLVM map two before they do anything.
MEMORY_BYTES = 8 << 30
PR_SET_PDEATHSIG = 1
# Workers that die before they take a call, one after the other: something is wrong with all.
MOST_STARTS = 3


class WorkerError(Exception):
    """A call failed in its worker; the text is the error's."""


class WorkerDiedError(Exception):
    """A call's worker died."""


class WorkerPool:
    """Workers, each with a thread here and a pipe to itself.

    What workers share can be left in disorder by one that is killed; these share nothing. One that
    dies in a call fails that call, and the next call starts another.

    Args:
        processes: workers.
        patience: seconds that a worker has to end its call when it is not wanted any more. Without,
            workers are killed, also by the end of this process.
    """

    def __init__(self, processes: int, patience: float = 0.0) -> None:
        self._patience = patience
        self._workers: set[_Worker] = set()
        self._own = threading.local()  # a thread's worker
        self._closed = False
        # A worker ends with the thread that starts it; these live as long as the pool.
        self._threads = ThreadPoolExecutor(processes)

    def schedule(
        self, function: Callable[..., Any], args: tuple[Any, ...] = (), timeout: float | None = None
    ) -> Future[Any]:
        """Call a function in a worker.

        Its result is the future's, or WorkerError, or WorkerDiedError, or TimeoutError where the
        call took longer than ``timeout`` seconds.
        """
        return self._threads.submit(self._call, function, args, timeout)

    def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        for _ in range(MOST_STARTS):
            worker = getattr(self._own, "worker", None)
            if worker is None:
                worker = self._own.worker = _Worker(self._patience)
                self._workers.add(worker)
            if self._closed:
                break
            try:
                if worker.take(function, args):
                    return worker.result(timeout)
            finally:
                if not worker.alive:
                    self._own.worker = None
                    self._workers.discard(worker)
        raise WorkerDiedError("the worker ended before it began")

    def close(self) -> None:
        """End the workers, soon."""
        self._closed = True
        interruption = threading.Timer(self._patience, self._interrupt)
        interruption.start()
        self._threads.shutdown(cancel_futures=True)
        interruption.cancel()
        for worker in self._workers:
            worker.kill()

    def _interrupt(self) -> None:
        for worker in list(self._workers):
            worker.interrupt()


class _Worker:
    """One process."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = theirs, os.getpid(), not patience
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.alive = True

    def take(self, function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        """Hand over a call; False where the process ended before it took it."""
        try:
            self._pipe.send((function, args))
            self._pipe.recv()
            return True
        except (OSError, EOFError):
            self.kill()
            return False

    def result(self, timeout: float | None) -> Any:
        """Of the call.

        Raises:
            WorkerError: it has failed.
            WorkerDiedError: so has its process.
            TimeoutError: it took too long, and was ended.
        """
        if not wait([self._pipe, self._process.sentinel], timeout):
            self.kill()
            raise TimeoutError
        try:
            good, value = self._pipe.recv()
        except (OSError, EOFError) as error:
            self.kill()
            raise WorkerDiedError(f"the worker died, status {self._process.exitcode}") from error
        if not good:
            raise WorkerError(value)
        return value

    def interrupt(self) -> None:
        """End the process under the hands of the thread that waits for it."""
        self._process.kill()

    def kill(self) -> None:
        """End the process; only for the thread that waits for it, or when there is none."""
        self.alive = False
        self._pipe.close()  # ends it, unless it is busy
        self._process.join(self._patience)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, parent: int, killed: bool) -> None:
    """The worker: takes calls and answers whether they were good, and the result or what failed."""
    _prepare(parent, killed)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, args = pipe.recv()
            pipe.send(None)
            try:
                answer = True, function(*args)
            except Exception as error:
                answer = False, str(error).strip() or type(error).__name__
            pipe.send(answer)


def _prepare(parent: int, killed: bool) -> None:
    """Leave Ctrl-C to the parent, end with it, and take no more than a share of the memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if killed:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that took effect
        os._exit(1)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
