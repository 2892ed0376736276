"""Tuning for an AArch64 board that is emulated, over every way there is to one; and what happens
when it goes away in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compiler.tuning.api import Where, tune
from compiler.tuning.log import TuningLog
from compiler.tuning.ssh import COMMAND

psutil = pytest.importorskip("psutil")
pytest.importorskip("cloudpickle")  # TVM's tracker starts its worker with it
pytest.importorskip("tornado")  # and listens with it
SCRIPT = Path(__file__).parents[2] / "scripts" / "emulated_board.sh"
TARGET = "arm_cortex_a72"
START_SECONDS = 180.0  # TVM alone takes ten to import there
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A board starts anew faster than this one on a busy machine."""
    monkeypatch.setattr("compiler.tuning.fleet.PATIENCE_SECONDS", START_SECONDS)


@pytest.fixture(scope="module")
def board():
    """The userland's script; unpacks it where that was not done yet."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [SCRIPT, "prepare"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        pytest.skip(f"no arm64 userland: {lines[-1]}")
    return SCRIPT


class Server:
    """A server of the emulated board.

    Args:
        ready: text in its output once it listens.
    """

    def __init__(self, folder: Path, ready: str, *arguments: object) -> None:
        self.output = folder / f"{arguments[0]}-{arguments[1]}.log"
        self._command, self._ready = [str(SCRIPT), *map(str, arguments)], ready
        self.start()

    def start(self) -> None:
        with self.output.open("w") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while self._ready not in self.output.read_text():
            assert self._process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """At once and with all that it started, as when a board loses its power."""
        if self._process.poll() is None:
            process = psutil.Process(self._process.pid)
            for one in [process, *process.children(recursive=True)]:
                one.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(*servers: Server):
    """Servers that started together, since each takes its time."""
    try:
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def rpc_server(board, tmp_path):
    """The address of a board, and its server."""
    port = free_port()
    server = Server(tmp_path, "bind to", "rpc", port)
    with running(server):
        yield f"127.0.0.1:{port}", server


@pytest.fixture
def farm(board, tmp_path):
    """The address of a tracker, and the servers of its two boards."""
    from tvm.rpc.tracker import Tracker

    tracker = Tracker("127.0.0.1", 19600, 19700, silent=True)
    address = f"127.0.0.1:{tracker.port}"
    servers = [Server(tmp_path, "bind to", "rpc", free_port(), address, "pi") for _ in range(2)]
    try:
        with running(*servers):
            yield address, servers
    finally:
        tracker.terminate()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Two convolutions."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 4, 3, 3)) * 0.1,
        "w2": rng.standard_normal((16, 8, 1, 1)) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", 1, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 16, 8, 8])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    path = tmp_path_factory.mktemp("model") / "two.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def tune_with(model, folder, where, accident, after=4):
    """Tune; the accident happens once so many candidates have been measured."""
    events = []

    def notify(event):
        events.append(event)
        if sum(e["event"] == "measured" for e in events) == after and not accidents:
            accidents.append(threading.Thread(target=accident))
            accidents[0].start()

    accidents: list[threading.Thread] = []
    result = tune(
        model, TARGET, trials=12, threads=1, tuning_logs=folder, where=where, notify=notify
    )
    assert accidents
    accidents[0].join()
    return result, events


def check(result, events):
    """The run finished, and what it measured is in the log."""
    measured = [e for e in events if e["event"] == "measured"]
    assert len(measured) >= 8
    assert not [e for e in events if e["event"] == "skipped" and e["reason"] != "same code"]
    assert len(result.tasks) == 2
    assert all(0 < t.best_seconds <= t.default_seconds < 1 for t in result.tasks)
    log = TuningLog(result.log)
    assert log.repaired == []
    assert len(log.records) >= len(measured)
    assert all(record.best < 1 for record in log.records)
    assert {f.runner for f in log.fingerprints.values()} <= {"rpc", "ssh"}


def notes(events) -> list[str]:
    return [e["text"] for e in events if e["event"] == "note"]


def test_rpc_server_that_starts_anew(rpc_server, model, tmp_path):
    address, server = rpc_server
    result, events = tune_with(model, tmp_path, Where(rpc=[address]), server.restart)
    check(result, events)
    assert any("trying again" in text for text in notes(events))


def test_tracker_loses_one_of_two_boards(farm, model, tmp_path):
    tracker, (first, _) = farm
    where = Where(tracker=tracker, key="pi")
    result, events = tune_with(model, tmp_path, where, first.kill)
    check(result, events)
    start = next(e for e in events if e["event"] == "start")
    assert len(start["devices"]) == 2


@pytest.fixture
def ssh_server(board, tmp_path, monkeypatch):
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").is_file()):
        pytest.skip("needs the Debian package openssh-server")
    server = Server(tmp_path, "Server listening", "sshd", free_port(), tmp_path / "ssh")
    monkeypatch.setenv(COMMAND, f"ssh -F {tmp_path / 'ssh' / 'ssh_config'}")
    with running(server):
        yield server


def test_ssh_server_that_starts_anew(ssh_server, model, tmp_path):
    result, events = tune_with(model, tmp_path, Where(ssh=["board"]), ssh_server.restart)
    check(result, events)
    assert any("trying again" in text for text in notes(events))
