"""Times candidates with the measuring program: on this machine, on a board over SSH, or counted.

All ways speak the same protocol (device/measurer.c) over a pipe; they differ in the command that
starts the program.
"""

from __future__ import annotations

import math
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compiler.errors import EdgeccError
from compiler.target import LatencyFit, Target
from compiler.tuning.candidates import Candidate, measurer

# A canary slower than the fastest by more than this: the clock fell, or a neighbour woke up.
CANARY_SLACK = 1.08
MAX_COPIES = 8
# Of device/measurer.c; measuring over RPC keeps to them as well.
MAX_SAMPLES = 512
SAMPLE_SECONDS = 300e-6
RETRIES = 2


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        threads: of the kernels.
        budget_ms: sampling of one candidate ends by then, if its samples have not agreed before.
        samples: of each candidate, at least.
        timeout_s: for one candidate, with loading it.
        memory_mb: address space of one candidate; 0: no limit.
        cooldown_s: pause before each candidate.
        cold_bytes: buffers are copied until they take as much together, so that the next run does
            not find them in the cache.
    """

    threads: int
    budget_ms: int = 60
    samples: int = 15
    timeout_s: float = 10.0
    memory_mb: int = 4096
    cooldown_s: float = 0.0
    cold_bytes: int = 0


@dataclass(frozen=True)
class Measurement:
    """Of one candidate.

    Args:
        seconds: samples, each the mean of some runs.
        error: largest difference from the default's outputs, relative to the largest of them.
        canary: seconds of a fixed loop before and after.
    """

    seconds: tuple[float, ...]
    error: float
    canary: tuple[float, float] = (0.0, 0.0)

    @property
    def best(self) -> float:
        """The lower quartile: noise only adds."""
        return sorted(self.seconds)[len(self.seconds) // 4]


class MeasurementError(Exception):
    """One candidate could not be measured; the next may."""


class DeviceLostError(Exception):
    """The measuring program or the way to it is gone."""


class Device(Protocol):
    """Where candidates run."""

    name: str

    def measure(self, candidate: Candidate, reference: bool) -> Measurement:
        """Time a candidate; with ``reference`` its outputs are what later ones are compared with.

        Raises:
            MeasurementError: the candidate crashed, took too long or too much memory.
            DeviceLostError: the device does not answer any more.
        """

    def facts(self) -> dict[str, str]:
        """What is known of the machine and its settings: governor, clock, model, kernel."""

    def close(self) -> None:
        """End everything that was started."""


class PipeDevice:
    """The measuring program behind a pipe.

    Args:
        command: starts it, with standard input and output connected.
    """

    def __init__(self, name: str, command: Sequence[str], settings: Settings) -> None:
        self.name = name
        self._command = list(command)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._reference: Candidate | None = None

    def measure(self, candidate: Candidate, reference: bool) -> Measurement:
        time.sleep(self._settings.cooldown_s)
        if self._process is None:
            self._start()
            if self._reference is not None and not reference:
                self._ask(self._reference, True)
        if reference:
            self._reference = candidate
        return _parse(self._ask(candidate, reference))

    def facts(self) -> dict[str, str]:
        """As the measuring program says; nothing where it can't be asked."""
        done = subprocess.run(
            [*self._command, "facts"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the tuner, which ends this in order
        )

    def _ask(self, candidate: Candidate, reference: bool) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            _write_all(self._process.stdin.fileno(), request(candidate, self._settings, reference))
            line = self._read_line(self._settings.timeout_s + 30)
        except (OSError, DeviceLostError) as error:
            self.close()
            raise DeviceLostError(f"{self.name}: the measuring program ended") from error
        return line

    def _read_line(self, timeout: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        stream, end, line = self._process.stdout.fileno(), time.monotonic() + timeout, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            data = os.read(stream, 1 << 16) if ready else b""
            if not data:
                raise DeviceLostError
            line += data
        return line.decode()


def copies_of(nbytes: int, settings: Settings) -> int:
    """Sets of buffers that runs take in turns, ``nbytes`` each, so that caches are cold."""
    return min(MAX_COPIES, max(1, -(-settings.cold_bytes // max(1, nbytes))))


def request(candidate: Candidate, settings: Settings, reference: bool) -> bytes:
    """What the measuring program reads."""
    copies = copies_of(candidate.nbytes, settings)
    numbers = (
        *(len(candidate.library), settings.threads, settings.budget_ms, settings.samples),
        *(int(settings.timeout_s * 1000), settings.memory_mb, copies),
        *(len(candidate.buffers), int(reference)),
    )
    head = "\n".join((" ".join(map(str, numbers)), *candidate.buffers)) + "\n"
    return head.encode() + candidate.library


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _parse(line: str) -> Measurement:
    word, _, rest = line.strip().partition(" ")
    if word != "ok":
        raise MeasurementError(rest or "no answer")
    error, before, after, _, *samples = rest.split()
    return Measurement(
        tuple(int(s) * 1e-9 for s in samples), float(error), (int(before) * 1e-9, int(after) * 1e-9)
    )


class SteadyDevice:
    """Measures again while a canary says that the clock or a neighbour got in the way.

    Args:
        disturbed: how many measurements stayed so.
    """

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.disturbed = 0
        self._device = device
        self._canary = math.inf

    def measure(self, candidate: Candidate, reference: bool) -> Measurement:
        best: Measurement | None = None
        for _ in range(RETRIES + 1):
            found = self._device.measure(candidate, reference)
            self._canary = min(self._canary, *(c for c in found.canary if c > 0), math.inf)
            if best is None or found.best < best.best:
                best = found
            if max(found.canary) <= CANARY_SLACK * self._canary:
                return best
        self.disturbed += 1
        assert best is not None
        return best

    def facts(self) -> dict[str, str]:
        """Of the device."""
        return self._device.facts()

    def close(self) -> None:
        self._device.close()


def local_device(target: Target, settings: Settings, name: str = "local") -> SteadyDevice:
    """This machine."""
    return SteadyDevice(PipeDevice(name, [str(measurer(target))], settings))


class EmulatedDevice:
    """Counts under the target's emulator, priced by the target's fit.

    Args:
        target: without a fit its instructions are the price.
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        emulator = target.emulator
        if emulator is None:
            raise EdgeccError(
                f"--runner emulated: nothing emulates {target.name}",
                "tune on a machine like it: --ssh USER@HOST",
            )
        self.name = f"emulated {target.name}"
        self._target, self._settings = target, settings
        self._prefix = [*emulator.command, *(["-L", emulator.sysroot] if emulator.sysroot else [])]
        # Sampling times is of no use there; one run tells what the outputs are.
        quick = Settings(settings.threads, 0, 1, 120.0, 0)
        self._checker = PipeDevice(self.name, [*self._prefix, str(measurer(target))], quick)

    def measure(self, candidate: Candidate, reference: bool) -> Measurement:
        from compiler.estimate.plugin import count

        error = self._checker.measure(candidate, reference).error
        with tempfile.TemporaryDirectory(prefix="edgecc-count-") as folder:
            work = Path(folder)
            (work / "request").write_bytes(request(candidate, self._settings, False))
            (work / "measurer").write_bytes(measurer(self._target).read_bytes())
            (work / "measurer").chmod(0o700)
            try:
                (counts,) = count(
                    self._prefix,
                    ["./measurer", "request"],
                    self._target.caches,
                    work,
                    timeout=self._settings.timeout_s * 30,
                )
            except (EdgeccError, ValueError) as failure:
                raise MeasurementError(str(failure)) from failure
        fit = self._target.estimate or LatencyFit(1.0, 0.0, 0.0, 0.0, "")
        cycles = fit.cycles(counts.instructions, counts.l1d_misses, counts.l2_misses)
        return Measurement((cycles / (self._target.frequency_ghz * 1e9),), error)

    def facts(self) -> dict[str, str]:
        """Nothing: counts do not depend on the machine."""
        return {}

    def close(self) -> None:
        self._checker.close()
