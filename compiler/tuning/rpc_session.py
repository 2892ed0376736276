"""One candidate's session with TVM's RPC server; runs in a process of its own.

A connection that is lost silently blocks TVM's client for ever, so the caller must be able to kill
what waits for it. All that goes in and out is plain data.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

# Here, and not where they are needed: a call's time-out begins when its process has imported this.
import numpy as np
import numpy.typing as npt
import tvm
from tvm import rpc

from compiler.tuning.measure import MAX_SAMPLES, SAMPLE_SECONDS, Settings, copies_of

Bytes = npt.NDArray[np.uint8]

GUARD, GUARD_BYTE = 64, 0xA5
LIBRARY = "candidate.so"  # the server would look for a compiler if it were a .tar
# Samples are fetched in groups, and then it is decided whether more are needed.
GROUP = 15
# For a board of a tracker to become free.
WAIT_SECONDS = 30.0
_SIGALRM = 14


@dataclass(frozen=True)
class Address:
    """Of an RPC server, or with a key of a tracker that knows some."""

    host: str
    port: int
    key: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f" {self.key}" if self.key else "")


@dataclass(frozen=True)
class Job:
    """A candidate, and how to measure it.

    Args:
        buffers: lines as of ``Candidate.buffers``.
        nbytes: of all buffers.
    """

    library: bytes
    buffers: tuple[str, ...]
    nbytes: int
    settings: Settings


@dataclass(frozen=True)
class Timed:
    """What a session found.

    Args:
        seconds: samples.
        canary: seconds, before and after.
        outputs: bytes of each output.
    """

    seconds: tuple[float, ...]
    canary: tuple[float, float]
    outputs: tuple[Bytes, ...]


@dataclass(frozen=True)
class Refused:
    """The candidate could not be measured, the board lives."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The board does not answer, or not as an RPC server should."""

    reason: str


@dataclass(frozen=True)
class Buffer:
    """One line of ``Candidate.buffers``; see device/measurer.c."""

    role: str
    kind: str
    nbytes: int
    seed: int = 0
    extents: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()


def parse_buffer(line: str) -> Buffer:
    """The fields of a line."""
    role, *rest = line.split()
    if role == "w":
        return Buffer(role, "b", int(rest[0]))
    if role == "o":
        return Buffer(role, rest[0], int(rest[1]))
    seed, nbytes, rank, *layout = map(int, rest[1:])
    return Buffer(role, rest[0], nbytes, seed, tuple(layout[:rank]), tuple(layout[rank:]))


def input_bytes(buffer: Buffer) -> Bytes:
    """The same values as ``fill`` of device/measurer.c makes: splitmix64 of seed and index."""
    if buffer.kind == "z":
        return np.zeros(buffer.nbytes, np.uint8)
    n = buffer.nbytes // 4 if buffer.kind == "f" else buffer.nbytes
    bits = np.arange(n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits += np.uint64((buffer.seed * 0x100000001 + 0x9E3779B97F4A7C15) % (1 << 64))
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    values: npt.NDArray[Any]
    if buffer.kind == "f":
        values = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    else:
        values = (bits >> np.uint64(56)).astype(np.uint8)
    if buffer.extents:
        values = values.reshape(buffer.extents).transpose(buffer.axes)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def initial_bytes(buffer: Buffer) -> Bytes:
    """A buffer with the guard behind it; memory that nobody writes is not a number."""
    data = np.full(buffer.nbytes + GUARD, 0xFF, np.uint8)
    data[buffer.nbytes :] = GUARD_BYTE
    if buffer.role == "i":
        data[: buffer.nbytes] = input_bytes(buffer)
    return data


def measure(address: Address, job: Job, timeout: float) -> Timed | Refused | Lost:
    """Send a candidate to a board, check it and time it.

    Args:
        timeout: seconds after which the server ends the session.
    """
    try:
        session = connect(address, timeout)
        session.upload(bytearray(job.library), LIBRARY)
    except Exception as error:  # of TVM's client, whichever: nothing ran yet
        return Lost(reason_of(error))
    try:
        return _measure(session, job)
    except Exception as error:
        text = str(error)
        if "RPCSessionTimeoutError" in f"{type(error).__name__} {text}":
            return Refused(f"no result after {timeout:g} s")
        # What the server reports; all else is the connection.
        known = "Error caught from RPC call" in text
        return Refused(reason_of(error)) if known else Lost(reason_of(error))


def probe(address: Address, library: bytes, timeout: float) -> Lost | None:
    """Whether a board takes sessions and can load what is built for the target."""
    try:
        session = connect(address, timeout)
        session.upload(bytearray(library), LIBRARY)
        session.load_module(LIBRARY)["canary"]()
    except Exception as error:
        return Lost(reason_of(error))
    return None


def free_boards(tracker: Address) -> tuple[int, int, tuple[str, ...]]:
    """Of the tracker's key: boards that nobody uses, and all; and the keys that it knows."""
    # TVM's client would try for half a minute.
    socket.create_connection((tracker.host, tracker.port), timeout=10).close()
    summary = rpc.connect_tracker(tracker.host, tracker.port).summary()
    keys = [info["key"].partition(":")[2] for info in summary["server_info"]]
    free = summary["queue_info"].get(tracker.key, {}).get("free", 0)
    return int(free), keys.count(tracker.key), tuple(sorted(set(keys)))


def connect(address: Address, timeout: float) -> Any:
    """A session; the server ends it after ``timeout`` seconds."""
    seconds = max(1, round(timeout))
    if not address.key:
        return rpc.connect(address.host, address.port, session_timeout=seconds)
    if not free_boards(address)[1]:
        raise ConnectionError(f"the tracker knows no board {address.key} any more")
    tracker = rpc.connect_tracker(address.host, address.port)
    # Others may hold the boards, or the last one may go while this waits for it.
    tracker._sock.settimeout(WAIT_SECONDS)
    return tracker.request(address.key, session_timeout=seconds, max_retry=1)


def _measure(session: Any, job: Job) -> Timed | Refused:
    settings = job.settings
    module, device = session.load_module(LIBRARY), session.cpu()
    buffers = [parse_buffer(line) for line in job.buffers]
    if settings.memory_mb and job.nbytes > settings.memory_mb << 20:
        return Refused("out of memory")  # before the server allocates it
    first = [_upload(initial_bytes(buffer), device) for buffer in buffers]
    milliseconds = int(settings.timeout_s * 1000)
    status = int(module["check"](settings.threads, milliseconds, settings.memory_mb, *first))
    if status:
        return Refused(_meaning(status, milliseconds))
    module["open"](settings.threads, len(buffers))
    module["run"](*first)
    outputs = []
    for buffer, tensor in zip(buffers, first, strict=True):
        if buffer.role == "o":
            data = tensor.numpy()
            if np.any(data[buffer.nbytes :] != GUARD_BYTE):
                return Refused("wrote behind a buffer")
            outputs.append(data[: buffer.nbytes].copy())
    sets = list(first)
    for _ in range(copies_of(job.nbytes, settings) - 1):
        sets += [tensor.copyto(device) for tensor in first]
    before = module["canary"]()
    seconds = _sample(module, device, sets, len(sets) // len(first), settings)
    after = module["canary"]()
    return Timed(seconds, (before * 1e-9, after * 1e-9), tuple(outputs))


def _upload(data: Bytes, device: Any) -> Any:
    return tvm.runtime.tensor(data, device)


def _sample(
    module: Any, device: Any, sets: list[Any], copies: int, settings: Settings
) -> tuple[float, ...]:
    """Samples until the lower quarter agrees or the budget is spent, as device/measurer.c does."""
    once = module.time_evaluator("run", device, number=copies, repeat=1)(*sets).results[0]
    number = max(1, int(SAMPLE_SECONDS / max(once, 1e-9)) + 1 if once < SAMPLE_SECONDS else 1)
    left = settings.budget_ms * 1e-3
    found: list[float] = []
    while len(found) < MAX_SAMPLES:
        repeat = max(1, settings.samples - len(found)) if len(found) < settings.samples else GROUP
        timed = module.time_evaluator("run", device, number=number, repeat=repeat)(*sets)
        found += timed.results
        left -= sum(timed.results) * number
        ordered = sorted(found)
        if left <= 0 or ordered[len(ordered) // 4] <= 1.01 * ordered[0]:
            break
    return tuple(float(seconds) for seconds in found)


def _meaning(status: int, milliseconds: int) -> str:
    """What ``check`` of device/candidate.c returned."""
    if status == 128 + _SIGALRM:
        return f"no result after {milliseconds} ms"
    if status > 128:
        return f"crashed with signal {status - 128}"
    return {1: "the kernel reports an error", 2: "out of memory"}.get(status, f"status {status}")


def reason_of(error: BaseException) -> str:
    """The line of TVM's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("File ", "Stack", "["))]
    return (telling or [type(error).__name__])[-1][:200]
