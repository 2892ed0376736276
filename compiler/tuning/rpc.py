"""Boards behind TVM's RPC server, named one by one or handed out by its tracker.

The server executes what it is sent; nothing here makes it safe to reach for others.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.target import Target
from compiler.tuning import rpc_session
from compiler.tuning.candidates import Candidate, probe_library
from compiler.tuning.measure import (
    DeviceLostError,
    Measurement,
    MeasurementError,
    Settings,
    SteadyDevice,
)
from compiler.tuning.rpc_session import Address, Job, Lost, Refused
from compiler.tuning.workers import WorkerDiedError, WorkerPool

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Connecting, sending the candidate and its inputs, and fetching its outputs.
TRANSFER_SECONDS = 60.0
# The server ends the session first and says so; then the process that waits for it is killed.
GRACE_SECONDS = 10.0
PROBE_SECONDS = 30.0
# TVM's server does not survive a session whose client goes away in the middle of a call.
LAST_CALL_SECONDS = 5.0
_VERSIONS = "apache-tvm==0.27.0.post1 and apache-tvm-ffi==0.1.14.post1"


class RpcDevice:
    """A board behind an RPC server, with a session for each candidate.

    Args:
        address: of the server, or of a tracker that gives any of its free boards.
    """

    def __init__(self, name: str, address: Address, settings: Settings) -> None:
        self.name = name
        self._address, self._settings = address, settings
        self._worker = Worker()
        self._reference: tuple[npt.NDArray[np.uint8], ...] | None = None

    def measure(self, candidate: Candidate, reference: bool) -> Measurement:
        """As of ``Device``; a board that is away may be back at the next call."""
        time.sleep(self._settings.cooldown_s)
        job = Job(candidate.library, candidate.buffers, candidate.nbytes, self._settings)
        limit = self._settings.timeout_s * 2 + TRANSFER_SECONDS
        try:
            found = self._worker.call(
                limit + GRACE_SECONDS, rpc_session.measure, self._address, job, limit
            )
        except WorkerLostError as error:
            raise DeviceLostError(f"{self.name}: {error}") from error
        if isinstance(found, Refused):
            raise MeasurementError(found.reason)
        if isinstance(found, Lost):
            raise DeviceLostError(f"{self.name}: {found.reason}")
        if reference:
            self._reference = found.outputs
        if self._reference is None:
            raise MeasurementError("no reference outputs to compare with")
        kinds = [line.split()[1] for line in candidate.buffers if line.startswith("o")]
        pairs = zip(kinds, found.outputs, self._reference, strict=True)
        most = max(difference(kind, *pair) for kind, *pair in pairs)
        return Measurement(found.seconds, most, found.canary)

    def probe(self, library: bytes) -> Lost | None:
        """Load a library without a kernel; why that can't be done, or nothing.

        Raises:
            WorkerLostError: no answer.
        """
        found: Lost | None = self._worker.call(
            PROBE_SECONDS + GRACE_SECONDS, rpc_session.probe, self._address, library, PROBE_SECONDS
        )
        return found

    def facts(self) -> dict[str, str]:
        """Nothing: TVM's server has no way to ask."""
        return {}

    def close(self) -> None:
        self._worker.close()


def difference(kind: str, found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    """Largest difference over the largest absolute value; of bytes, how many differ."""
    import numpy as np

    if found.shape != expected.shape:
        return float("inf")
    if kind != "f":
        return float(np.count_nonzero(found != expected))
    got, want = (a.view(np.float32).astype(np.float64) for a in (found, expected))
    both = np.isnan(got) & np.isnan(want)  # the root of an input below zero
    delta = np.where(both, 0.0, np.abs(got - want))
    if np.isnan(delta).any():
        return float("inf")
    return float(delta.max(initial=0.0) / np.nanmax(np.abs(want), initial=1e-30))


class WorkerLostError(Exception):
    """A call took too long or its process died."""


class Worker:
    """A process that talks to a board, and may be killed when the board falls silent."""

    def __init__(self) -> None:
        self._pool = WorkerPool(1, LAST_CALL_SECONDS)

    def call(self, timeout: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result.

        Raises:
            WorkerLostError: there was none within ``timeout`` seconds.
        """
        try:
            return self._pool.schedule(function, arguments, timeout).result()
        except TimeoutError as error:
            raise WorkerLostError(f"no answer in {timeout:g} s") from error
        except WorkerDiedError as error:
            raise WorkerLostError("the process that talks to it died") from error

    def close(self) -> None:
        """End the process."""
        self._pool.close()


def rpc_device(server: str, target: Target, settings: Settings) -> SteadyDevice:
    """The board at HOST:PORT.

    Raises:
        EdgeccError: nobody answers there, or not a server that can run candidates.
    """
    address = parse_address("--rpc", server)
    device = RpcDevice(f"rpc {address}", address, settings)
    try:
        _probe(f"--rpc {server}", device, address, target)
    except BaseException:
        device.close()
        raise
    return SteadyDevice(device)


def tracker_devices(
    tracker: str, key: str, target: Target, settings: Settings
) -> list[SteadyDevice]:
    """As many boards as the tracker has free for a key, at least one.

    Raises:
        EdgeccError: no tracker answers there, it knows no such board, or the board can't run
            candidates.
    """
    plain = parse_address("--tracker", tracker)
    address, what = Address(plain.host, plain.port, key), f"--tracker {tracker}"
    worker = Worker()
    try:
        free, known, keys = worker.call(PROBE_SECONDS, rpc_session.free_boards, address)
    except Exception as error:
        raise EdgeccError(
            f"{what}: no TVM RPC tracker answers ({rpc_session.reason_of(error)})",
            "start one: python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190",
        ) from error
    finally:
        worker.close()
    if not known:
        raise EdgeccError(
            f"{what} --key {key}: the tracker knows no such board",
            f"it has: {', '.join(keys) or 'none at all'}",
        )
    devices: list[RpcDevice] = []
    try:
        for i in range(max(1, free)):
            devices.append(RpcDevice(f"tracker {tracker} {key} #{i + 1}", address, settings))
        _probe(f"{what} --key {key}", devices[0], address, target)
    except BaseException:
        for device in devices:
            device.close()
        raise
    return [SteadyDevice(device) for device in devices]


def parse_address(option: str, text: str) -> Address:
    """HOST:PORT, or [HOST]:PORT of an IPv6 address.

    Raises:
        EdgeccError: it is none, or the host has no address.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise EdgeccError(f"{option} {text}: no address", f"for example {option} 127.0.0.1:9090")
    try:
        socket.getaddrinfo(host, int(port))
    except OSError as error:
        raise EdgeccError(f"{option} {text}: {error.strerror}", "is the name right?") from error
    return Address(host, int(port))


def _probe(what: str, device: RpcDevice, address: Address, target: Target) -> None:
    try:
        lost = device.probe(probe_library(target))
    except WorkerLostError as error:
        raise EdgeccError(
            f"{what}: {error}", "does another session hold the board? It serves one at a time"
        ) from error
    if lost is not None:
        raise EdgeccError(*_explained(what, lost.reason, address, target))


def _explained(what: str, reason: str, address: Address, target: Target) -> tuple[str, str]:
    """A message and a hint for what TVM's client says."""
    if "Connect to" in reason:
        return f"{what}: nobody answers", (
            f"on the board: python -m tvm.exec.rpc_server --host 127.0.0.1 --port {address.port}; "
            f"here: ssh -N -L {address.port}:127.0.0.1:{address.port} USER@BOARD"
        )
    if "cannot find server that matches key" in reason:
        return f"{what}: the server belongs to a tracker", "--tracker HOST:PORT --key KEY"
    if "is not TVM RPC server" in reason:
        return f"{what}: what answers is no TVM RPC server", "is it the server's port?"
    return f"{what}: {reason}", (
        f"the board needs {_VERSIONS}, and must be one for --target {target.name}"
    )
