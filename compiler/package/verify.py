"""The proof that a built library computes what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.errors import EdgeccError
from compiler.package.manifest import Package, open_package
from compiler.package.runner import CannotRunError, Runner
from compiler.program import TensorInfo

# Seconds after which a library counts as hanging. qemu computes in 16 bits in software, 0.05 us a
# multiply-accumulate on an idle machine; there are two runs, and machines are busy.
PATIENCE = 600.0
SECONDS_PER_MAC = 0.5e-6


@dataclass(frozen=True)
class OutputCheck:
    """One output against the golden data.

    Args:
        error: max|a - b| / max|b| for floating point, max|a - b| in steps for integers.
        tolerance: the largest `error` that passes.
    """

    name: str
    dtype: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class Verification:
    """What `verify` found out.

    Args:
        status: "passed", "failed" or "skipped".
        how: "natively" or the emulator's name; "" when skipped.
        reference: what computed the golden outputs.
        reason: one line, why it was skipped or failed.
        hint: how to get a skipped verification done.
        threads: the results with 1 and with this many threads were the same bits.
    """

    status: str
    how: str = ""
    reference: str = ""
    reason: str = ""
    hint: str = ""
    outputs: tuple[OutputCheck, ...] = ()
    threads: int = 0

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def __str__(self) -> str:
        if self.status == "skipped":
            return f"verification skipped: {self.reason}" + (f" ({self.hint})" if self.hint else "")
        if self.status == "failed":
            return f"verification failed: {self.reason}"
        worst = max(self.outputs, key=lambda o: o.error / (o.tolerance or 1), default=None)
        error = ""
        if worst:
            error = (
                f", largest error {worst.error:.2g} ('{worst.name}'), allowed {worst.tolerance:.2g}"
            )
        return f"verified {self.how} against {self.reference}{error}"


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want| for floating point, max|got - want| for integers and bool.

    Infinities and NaN must be at the same places; where they are not, the result is NaN.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("nan")
    if not want.size:
        return 0.0
    if want.dtype.kind in "bui":
        wide = object if want.dtype.itemsize == 8 else np.int64  # object: integers of any size
        return float(np.abs(got.astype(wide) - want.astype(wide)).max())
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("nan")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("nan")
    if not finite.any():
        return 0.0
    distance = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(b[finite]).max())
    return distance / scale if scale else distance


def load_golden(package: Package) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The golden inputs and outputs by name.

    Raises:
        EdgeccError: they are missing or damaged.
    """
    try:
        with np.load(package.path / "golden.npz", allow_pickle=False) as data:
            inputs = {t.name: data[f"input_{i}"] for i, t in enumerate(package.inputs)}
            outputs = {t.name: data[f"output_{i}"] for i, t in enumerate(package.outputs)}
    except (OSError, ValueError, KeyError) as error:
        raise EdgeccError(
            f"{package.path / 'golden.npz'} is damaged: {error}", "build the package again"
        ) from error
    return inputs, outputs


def golden_inputs(package: Package) -> dict[str, np.ndarray] | None:
    """The golden inputs by name, or None where the package has none."""
    if not (package.path / "golden.npz").is_file():
        return None
    return load_golden(package)[0]


def _check_outputs(
    tensors: tuple[TensorInfo, ...],
    got: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    tolerance: float,
    integer_tolerance: float,
) -> tuple[OutputCheck, ...]:
    return tuple(
        OutputCheck(
            t.name,
            t.dtype,
            difference(got[t.name], want[t.name]),
            integer_tolerance if np.dtype(t.dtype).kind in "bui" else tolerance,
        )
        for t in tensors
    )


def _software_seconds(package: Package) -> float:
    """What emulation in software takes, of products in 16 bits."""
    precision = (package.manifest.get("quantization") or {}).get("precision")
    macs = package.receipt()["macs"] if precision in ("float16", "bfloat16") else 0
    return macs * SECONDS_PER_MAC


def verify_package(
    path: str | Path,
    *,
    tolerance: float | None = None,
    threads: int | None = None,
    timeout: float | None = None,
) -> Verification:
    """Runs the golden inputs through the library and compares.

    The library runs in a process of its own, with one thread and with `threads`: natively where
    this CPU can run it, else under the target's emulator.

    Args:
        tolerance: overrides the package's own for floating-point outputs.
        threads: default: the target's cores, at most 4.
        timeout: seconds after which the library counts as hanging; None: 600, and more where an
            emulator computes in 16 bits.

    Raises:
        EdgeccError: the package is damaged.
    """
    package = open_package(path)
    package.check_files()
    golden = package.manifest.get("golden")
    if golden is None:
        return Verification("skipped", reason="the package has no golden data")
    try:
        runner = Runner(package)
    except CannotRunError as error:
        return Verification("skipped", reason=error.message, hint=error.hint)
    inputs, want = load_golden(package)
    threads = threads or min(4, max(2, package.manifest["target"]["cores"]))
    how = f"under {runner.emulator}" if runner.emulator else "natively"
    if timeout is None:
        timeout = PATIENCE + (_software_seconds(package) if runner.emulator else 0.0)
    try:
        got = runner.verify(inputs, threads, timeout)
    except EdgeccError as error:
        return Verification("failed", how, golden["reference"], error.message)
    if tolerance is None:
        tolerance = float(golden["tolerance"])
    checks = _check_outputs(
        package.outputs, got, want, tolerance, float(golden["integer_tolerance"])
    )
    wrong = [check for check in checks if not check.passed]
    reason = "; ".join(
        f"output '{c.name}' is off by {c.error:.3g}, allowed is {c.tolerance:g}" for c in wrong
    )
    status = "failed" if wrong else "passed"
    return Verification(status, how, golden["reference"], reason, outputs=checks, threads=threads)
