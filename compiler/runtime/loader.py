"""``compiler.load(path)(x)``: runs a built library in this process, with ctypes."""

from __future__ import annotations

import ctypes
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.package.cpu import why_not_on_host
from compiler.package.elf import read_arch
from compiler.package.manifest import open_package
from compiler.program import TensorInfo
from compiler.runtime.abi import ABI_VERSION, DTYPE_NAMES, Descriptor, State, Tensor, TensorInfoC
from compiler.runtime.arrays import name_inputs, random_inputs
from compiler.runtime.timing import OperatorTime, Timing, operator_times

# Device and inode of each library when it was loaded first. None is unloaded: no inode comes twice.
_loaded: dict[Path, tuple[int, int]] = {}


class Model:
    """One loaded instance of a model. Calls from several threads take turns.

    >>> y = compiler.load("build/digits-host")(x)  # doctest: +SKIP

    Args:
        path: a package folder, or the library itself.
        threads: 0 for the default (the target's cores, at most this machine's).
    Raises:
        EdgeccError: no such package, or this machine can't run it.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self._state: State | None = None
        self.library = _find_library(Path(path))
        self._descriptor = _open_library(self.library)
        d = self._descriptor
        self.name: str = d.name.decode()
        self.target: str = d.target.decode()
        self.inputs = _infos(d.inputs, d.n_inputs)
        self.outputs = _infos(d.outputs, d.n_outputs)
        self.arena_bytes: int = d.arena_bytes
        self.weights_bytes: int = d.weights_bytes
        self._lock = threading.Lock()
        state = State()
        if d.init(ctypes.byref(state), None, threads):
            raise EdgeccError(f"{self.library}: {self._text(state)}")
        self._state = state

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Runs the model on arrays given by position or name.

        Returns:
            The output array, or a tuple of arrays where the model has several outputs.
        Raises:
            EdgeccError: an input is missing or has another dtype or shape.
        """
        outputs = tuple(self._run(name_inputs(self.inputs, positional, named)).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As a call, by names that need not be Python identifiers; outputs by name."""
        return self._run(name_inputs(self.inputs, (), inputs))

    def bench(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        warmup: int = 3,
        min_runs: int = 10,
        max_runs: int = 1000,
        seconds: float = 1.0,
    ) -> Timing:
        """Times whole runs until `seconds` have passed (and `min_runs` are done)."""
        args = self._arguments(inputs)
        for _ in range(warmup):
            self._check(self._call("run", *args))
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < min_runs or (len(samples) < max_runs and time.perf_counter() < end):
            start = time.perf_counter_ns()
            code = self._call("run", *args)
            samples.append((time.perf_counter_ns() - start) * 1e-6)
            self._check(code)
        return Timing.of(samples, warmup, self.threads)

    def profile(
        self, inputs: Mapping[str, Any] | None = None, *, warmup: int = 3, runs: int = 20
    ) -> list[OperatorTime]:
        """Median time of each operator over `runs` runs."""
        args = self._arguments(inputs)
        d = self._descriptor
        ms = (ctypes.c_double * max(1, d.n_operators))()
        rows = []
        for i in range(warmup + max(1, runs)):
            self._check(self._call("profile", *args, ms))
            if i >= warmup:
                rows.append(list(ms)[: d.n_operators])
        operators = [
            (row.label.decode(), row.macs, row.nbytes) for row in d.operators[: d.n_operators]
        ]
        return operator_times(rows, operators)

    @property
    def threads(self) -> int:
        return self._descriptor.threads(ctypes.byref(self._open()))

    @threads.setter
    def threads(self, n: int) -> None:
        self._check(self._call("set_threads", n))

    @property
    def clock_ghz(self) -> float:
        """The clock at which the calling core runs just now, measured."""
        return self._descriptor.clock_ghz()

    def set_spin(self, worker_us: int, caller_us: int) -> None:
        """How long idle workers and a waiting caller spin before they sleep, in microseconds."""
        self._check(self._call("set_spin", worker_us, caller_us))

    def close(self) -> None:
        """Frees the arena and stops the threads; the library stays loaded."""
        state, self._state = self._state, None
        if state is not None:
            self._descriptor.close(ctypes.byref(state))

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _open(self) -> State:
        if self._state is None:
            raise EdgeccError(f"the model {self.name} is closed")
        return self._state

    def _call(self, function: str, *args: Any) -> int:
        with self._lock:
            return getattr(self._descriptor, function)(ctypes.byref(self._open()), *args)

    def _text(self, state: State) -> str:
        return self._descriptor.last_error(ctypes.byref(state)).decode("utf-8", "replace")

    def _check(self, code: int) -> None:
        if code:
            raise EdgeccError(f"{self.name}: {self._text(self._open())} (status {code})")

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = {t.name: np.empty(t.shape, np.dtype(t.dtype)) for t in self.outputs}
        self._check(
            self._call("run", _tensors(self.inputs, inputs), _tensors(self.outputs, outputs))
        )
        return outputs

    def _arguments(self, inputs: Mapping[str, Any] | None) -> tuple[Any, Any]:
        arrays = name_inputs(self.inputs, (), inputs or random_inputs(self.inputs))
        outputs = {t.name: np.empty(t.shape, np.dtype(t.dtype)) for t in self.outputs}
        return _tensors(self.inputs, arrays), _tensors(self.outputs, outputs)


def _find_library(path: Path) -> Path:
    """The library of a package folder, or the file itself; refuses what would crash here."""
    features: tuple[str, ...] = ()
    library = path
    if path.is_dir():
        package = open_package(path)
        library = package.library
        features = tuple(package.manifest["target"]["required"])
    if not library.is_file():
        raise EdgeccError(f"{library} does not exist", "build the model first")
    try:
        with open(library, "rb") as file:
            arch = read_arch(file.read(64))
    except ValueError as error:
        raise EdgeccError(f"{library} is not a library for Linux") from error
    reason = why_not_on_host(arch, features)
    if reason:
        raise EdgeccError(
            f"can't run {library} here: {reason}",
            "`verify`, `run` and `bench` on the package run it under emulation where they can",
        )
    return library


def _open_library(library: Path) -> Descriptor:
    try:
        function = _handle(library.resolve()).edgecc_model_v1
    except OSError as error:
        raise EdgeccError(f"can't load {library}: {error}") from error
    except AttributeError as error:
        raise EdgeccError(f"{library} was not built by edgecc") from error
    function.restype = ctypes.POINTER(Descriptor)
    descriptor = function().contents
    if descriptor.abi_version != ABI_VERSION:
        raise EdgeccError(
            f"{library} has ABI version {descriptor.abi_version}, this edgecc knows {ABI_VERSION}"
        )
    return descriptor


def _handle(library: Path) -> ctypes.CDLL:
    """The file that is there now.

    The dynamic linker goes by names, and would give a process that builds a model again the library
    that it has loaded before; a name that it does not know makes it look at the file.
    """
    status = library.stat()
    identity = status.st_dev, status.st_ino
    if _loaded.setdefault(library, identity) == identity:
        return ctypes.CDLL(str(library))
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / library.name
        link.symlink_to(library)
        return ctypes.CDLL(str(link))


def _infos(rows: Any, count: int) -> tuple[TensorInfo, ...]:
    def info(row: TensorInfoC) -> TensorInfo:
        return TensorInfo(row.name.decode(), DTYPE_NAMES[row.dtype], tuple(row.shape[: row.rank]))

    return tuple(info(row) for row in rows[:count])


def _tensors(infos: tuple[TensorInfo, ...], arrays: Mapping[str, np.ndarray]) -> Any:
    """A C array of tensors, which keeps the arrays alive."""
    table: Any = (Tensor * max(1, len(infos)))()
    keep = []
    for row, info in zip(table, infos, strict=False):
        array = arrays[info.name]
        extents = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
        keep += [array, extents]
        row.data = array.ctypes.data
        row.nbytes = array.nbytes
        row.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
        row.rank = array.ndim
        row.dtype = DTYPE_NAMES.index(info.dtype)
    table.keep = keep
    return table
