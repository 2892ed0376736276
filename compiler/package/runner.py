"""Runs a package's library in a process of its own: natively, or under the target's emulator."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from compiler.errors import EdgeccError
from compiler.package.cpu import why_not_on_host
from compiler.package.header import RUNTIME_DIR
from compiler.package.link import zig
from compiler.package.manifest import Package
from compiler.program import TensorInfo
from compiler.runtime.arrays import name_inputs, random_inputs
from compiler.runtime.timing import OperatorTime, Timing, operator_times

# Under qemu-user a crash of the guest raises the same signal in the emulator.
_PROBLEMS = {
    4: "the result depends on the number of threads: output '{}'",
    5: "{}",
}


class CannotRunError(EdgeccError):
    """This machine can't run the library, by no fault of the library."""


class Runner:
    """The way to run one package here.

    Args:
        package: the package; its library is not loaded into this process.
        emulate: run it under the target's emulator even where this CPU could.
    Raises:
        CannotRunError: neither this CPU nor an installed emulator can run it.
    """

    def __init__(self, package: Package, *, emulate: bool = False) -> None:
        self.package = package
        target = package.manifest["target"]
        reason = why_not_on_host(target["arch"], tuple(target["required"]))
        if reason is None and emulate:
            reason = "counting needs an emulator"
        self.prefix: list[str] = [] if reason is None else _emulator(package, reason)

    @property
    def emulator(self) -> str | None:
        """The emulator's program name, or None when the CPU itself runs the library."""
        return self.prefix[0] if self.prefix else None

    def verify(
        self, inputs: Mapping[str, np.ndarray], threads: int, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Runs with one thread and with `threads`; the outputs must be the same bits.

        Raises:
            EdgeccError: the library fails, crashes, writes outside of its buffers, or its result
                depends on the number of threads.
        """
        with _workspace() as work:
            self._run(work, inputs, "verify", threads, [str(work / "out.bin")], timeout)
            return _split((work / "out.bin").read_bytes(), self.package.outputs)

    def run(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return self.verify(inputs, threads)

    def bench(
        self,
        inputs: Mapping[str, np.ndarray] | None = None,
        *,
        warmup: int = 1,
        runs: int = 5,
        threads: int = 0,
    ) -> Timing:
        """Times whole runs; emulated time says nothing about the real CPU."""
        done = self._time("bench", inputs, warmup, runs, threads)
        samples = [int(line) * 1e-6 for line in done.stdout.split()]
        return Timing.of(samples, warmup, _threads(done))

    def profile(
        self,
        inputs: Mapping[str, np.ndarray] | None = None,
        *,
        warmup: int = 1,
        runs: int = 3,
        threads: int = 0,
    ) -> list[OperatorTime]:
        """Median time of each operator."""
        done = self._time("profile", inputs, warmup, runs, threads)
        rows = [[float(ns) * 1e-6 for ns in line.split()] for line in done.stdout.splitlines()]
        operators = [
            (row["label"], row["macs"], row["nbytes"])
            for row in self.package.receipt()["operators"]
        ]
        return operator_times(rows, operators)

    def count(
        self,
        inputs: Mapping[str, np.ndarray] | None,
        execute: Callable[[Sequence[str], Path], None],
        *,
        warmup: int = 1,
    ) -> None:
        """Runs with a mark before, between and after the operators, on one thread.

        Args:
            execute: runs a command in a folder, with what makes sense of the marks.
        """
        inputs = inputs or random_inputs(self.package.inputs)
        with _workspace() as work:
            # Fixed names: the length of a path moves the stack, and so changes cache misses.
            shutil.copyfile(self.package.library, work / "library.so")
            self._prepare(work, inputs)
            command = ["./runner", "./library.so", "count", "1", "in.bin", str(max(0, warmup))]
            execute([*self.prefix, *command], work)

    def _time(
        self,
        mode: str,
        inputs: Mapping[str, np.ndarray] | None,
        warmup: int,
        runs: int,
        threads: int,
    ) -> subprocess.CompletedProcess[str]:
        inputs = inputs or random_inputs(self.package.inputs)
        with _workspace() as work:
            numbers = [str(max(0, warmup)), str(max(1, runs))]
            return self._run(work, inputs, mode, threads, numbers, None)

    def _run(
        self,
        work: Path,
        inputs: Mapping[str, np.ndarray],
        mode: str,
        threads: int,
        rest: Sequence[str],
        timeout: float | None,
    ) -> subprocess.CompletedProcess[str]:
        self._prepare(work, inputs)
        command = [*self.prefix, str(work / "runner"), str(self.package.library.resolve())]
        command += [mode, str(threads), str(work / "in.bin"), *rest]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeccError(f"{self.package.library} did not finish in {timeout:g} s") from error
        if done.returncode:
            raise EdgeccError(f"{self.package.library}: {problem(done)}")
        return done

    def _prepare(self, work: Path, inputs: Mapping[str, np.ndarray]) -> None:
        """Writes in.bin and the runner into `work`."""
        self._write_inputs(work, inputs)
        target = self.package.manifest["target"]
        build_runner(target["linker_triple"], target["linker_cpu"], work)

    def _write_inputs(self, work: Path, inputs: Mapping[str, np.ndarray]) -> None:
        arrays = name_inputs(self.package.inputs, (), inputs)
        with open(work / "in.bin", "wb") as file:
            for array in arrays.values():
                file.write(array.tobytes())


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgecc-run-") as folder:
        yield Path(folder)


def build_runner(triple: str, cpu: str, work: Path) -> Path:
    """Compiles runtime/runner.c for the target into `work`."""
    source = RUNTIME_DIR / "runner.c"
    arguments = ["-target", triple, f"-mcpu={cpu}", "-O2", "-g0", "-s", "-std=gnu11"]
    arguments.append("-rdynamic")  # so that a library's calls can reach the runner
    zig([*arguments, str(source), "-ldl", "-o", str(work / "runner")], work, keep=True)
    return work / "runner"


def _emulator(package: Package, reason: str) -> list[str]:
    """The command that runs a program of the target, without the program.

    Raises:
        CannotRunError: there is none, or it is not installed; says how to install it.
    """
    emulator = package.manifest["target"]["emulator"]
    if emulator is None:
        raise CannotRunError(reason, "no emulator is known for this target: use a machine like it")
    command, sysroot = list(emulator["command"]), emulator["sysroot"]
    install = f"apt-get install {' '.join(emulator['packages'])}"
    if shutil.which(command[0]) is None:
        raise CannotRunError(f"{reason}, and {command[0]} is not installed", install)
    if sysroot and not os.path.isdir(sysroot):
        raise CannotRunError(f"{reason}, and {sysroot} does not exist", install)
    return [*command, *(["-L", sysroot] if sysroot else [])]


def problem(done: subprocess.CompletedProcess[str]) -> str:
    """What the runner's exit status and last line of stderr say."""
    code = done.returncode
    detail = done.stderr.strip().splitlines()
    text = detail[-1] if detail else ""
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    if code > 128:
        return f"crashed with signal {code - 128}"
    return _PROBLEMS.get(code, "{}").format(text or f"exit status {code}")


def _threads(done: subprocess.CompletedProcess[str]) -> int:
    for line in done.stderr.splitlines():
        if line.startswith("threads "):
            return int(line.split()[1])
    return 0


def _split(data: bytes, outputs: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
    arrays, at = {}, 0
    for tensor in outputs:
        dtype = np.dtype(tensor.dtype)
        count = tensor.nbytes // dtype.itemsize
        arrays[tensor.name] = np.frombuffer(data, dtype, count, at).reshape(tensor.shape)
        at += tensor.nbytes
    return arrays
