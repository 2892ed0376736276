"""One or more devices of a kind that share the candidates of a round."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from compiler.errors import EdgeccError
from compiler.tuning.candidates import Candidate
from compiler.tuning.measure import Device, DeviceLostError, Measurement, MeasurementError

# A device that is gone is tried again for as long as a board may take to start anew, after pauses
# that double up to the longest.
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
# A candidate with which so many devices went away is not handed to another: it may be the reason.
MOST_LOSSES = 3
Outcome = tuple[Candidate, Measurement | str]


class Fleet:
    """Measures candidates on whichever device is free.

    Args:
        devices: at least one; times of different devices are compared, so all of one kind.
        notify: told when a device is given up.
    """

    def __init__(self, devices: Sequence[Device], notify: Callable[[str], None]) -> None:
        self._devices = list(devices)
        self._notify = notify
        self._references: dict[int, str] = {}
        self._gone_since: dict[int, float] = {}
        self._losses = Counter[int]()  # by candidate

    @property
    def names(self) -> list[str]:
        """Of the devices that still answer."""
        return [device.name for device in self._devices]

    def measure(self, default: Candidate, candidates: Iterable[Candidate]) -> Iterator[Outcome]:
        """Times, or why there are none, in the order in which they come.

        Args:
            default: its outputs are what the others' are compared with.

        Raises:
            EdgeccError: no device answers any more.
        """
        self._losses.clear()
        todo: queue.SimpleQueue[Candidate | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[Outcome | Device | str | Exception] = queue.SimpleQueue()
        over = threading.Event()
        threads = [
            threading.Thread(target=self._serve, args=(d, default, todo, done, over), daemon=True)
            for d in self._devices
        ]
        for thread in threads:
            thread.start()
        open_jobs = 0
        for candidate in candidates:
            todo.put(candidate)
            open_jobs += 1
            while not done.empty():
                outcome = self._receive(done.get())
                open_jobs -= len(outcome)
                yield from outcome
        while open_jobs:
            outcome = self._receive(done.get())
            open_jobs -= len(outcome)
            yield from outcome
        over.set()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()

    def _receive(self, item: Outcome | Device | str | Exception) -> list[Outcome]:
        if isinstance(item, tuple):
            return [item]
        if isinstance(item, Exception):
            raise item
        if isinstance(item, str):
            self._notify(item)
            return []
        self._notify(f"{item.name} does not answer; going on without it")
        self._devices.remove(item)
        item.close()
        if not self._devices:
            raise EdgeccError(
                f"{item.name} does not answer any more",
                "the log keeps what was measured; the same command goes on from there",
            )
        return []

    def _serve(
        self,
        device: Device,
        default: Candidate,
        todo: queue.SimpleQueue[Candidate | None],
        done: queue.SimpleQueue[Outcome | Device | str | Exception],
        over: threading.Event,
    ) -> None:
        pause = FIRST_PAUSE_SECONDS
        while (candidate := todo.get()) is not None:
            try:
                done.put((candidate, self._measure(device, default, candidate)))
                self._gone_since.pop(id(device), None)
                pause = FIRST_PAUSE_SECONDS
            except DeviceLostError as error:
                if self._losses[id(candidate)] >= MOST_LOSSES:
                    done.put((candidate, f"{MOST_LOSSES} times the device went away with it"))
                else:
                    todo.put(candidate)  # another device may be free for it
                now = time.monotonic()
                if id(device) not in self._gone_since:
                    done.put(f"{error}; trying again")
                if now - self._gone_since.setdefault(id(device), now) >= PATIENCE_SECONDS:
                    done.put(device)
                    return
                over.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception as error:  # a fault of ours: nobody must wait for this thread
                done.put(error)
                return

    def _measure(
        self, device: Device, default: Candidate, candidate: Candidate
    ) -> Measurement | str:
        try:
            if candidate is not default and self._references.get(id(device)) != default.digest:
                device.measure(default, True)
                self._references[id(device)] = default.digest
                self._gone_since.pop(id(device), None)
        except MeasurementError as error:
            return str(error)
        try:
            found = device.measure(candidate, candidate is default)
        except MeasurementError as error:
            return str(error)
        except DeviceLostError:
            self._references.pop(id(device), None)
            self._losses[id(candidate)] += id(device) not in self._gone_since
            raise
        if candidate is default:
            self._references[id(device)] = default.digest
        return found

    def close(self) -> None:
        """End all devices."""
        for device in self._devices:
            device.close()
