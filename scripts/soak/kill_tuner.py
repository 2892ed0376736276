"""Kill the tuner and its helpers at random moments, and look at what is left.

    python scripts/soak/kill_tuner.py --kills 200

Runs of `edgecc tune` on the shipped digit classifier, here or through TVM's RPC server on loopback,
lose some of their processes by SIGKILL: builders, the measuring program, what talks to the server,
the server with all its sessions (which is started again, as on a board), and at last the tuner
itself. Each run must go on with the next measurement, until its tuner is killed. Afterwards

- the log loads, here and as MetaSchedule's database,
- it holds every measurement that the run has reported,
- no process of the run is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.tuning.log import TuningLog  # noqa: E402
from compiler.tuning.log_writer import LogWriter  # noqa: E402

GRACE_SECONDS = 30.0
START_SECONDS = 180.0  # of the server
SILENCE_SECONDS = 600.0  # without a measurement: the run hangs
MARK = "EDGECC_SOAK"  # in the environment of all that a run starts


class Board:
    """TVM's RPC server, started again when it was killed.

    And when a client was: that may take the thread of the stock server along that accepts sessions.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.output = folder / "server.log"
        self._over, self._lock = threading.Event(), threading.Lock()
        self.start()
        self._watch = threading.Thread(target=self._restart_when_deaf)
        self._watch.start()

    def start(self) -> None:
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--port-end", str(self.port + 1)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tvm.exec.rpc_server", *place],
                env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self) -> None:
        """Until it listens."""
        end = time.monotonic() + START_SECONDS
        while "bind to" not in self.output.read_text():
            assert time.monotonic() < end, self.output.read_text()
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def _restart_when_deaf(self) -> None:
        while not self._over.wait(0.5):
            if "Exception in thread" in self.output.read_text():
                self.restart()

    def restart(self) -> None:
        """As a board does that lost its power."""
        with self._lock:
            self.kill()
            self.start()

    def close(self) -> None:
        """End it for good."""
        self._over.set()
        self._watch.join()
        self.kill()

    def kill(self) -> None:
        """With its sessions."""
        process = psutil.Process(self.process.pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


class Run:
    """One run of the tuner, until it is killed or nothing is left to search.

    Args:
        board: to measure on; None: here.

    Attributes:
        reported: measurements.
        killed: how many processes of which kind.
    """

    def __init__(self, logs: Path, rng: random.Random, board: Board | None) -> None:
        self.rng, self.board = rng, board
        self.reported, self.killed = 0, Counter[str]()
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.mark = f"{os.getpid()}-{rng.getrandbits(64):x}"
        command = ["tune", "--tuning-logs", str(logs), "--threads", "1", "--json"]
        if board is not None:
            board.wait()
            command += ["--rpc", f"127.0.0.1:{board.port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compiler", *command],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=self.complaints,  # a full pipe would stop it
            text=True,
        )

    def events_until(self, wanted: int) -> bool:
        """Read that many events of finished measurements; False where the run ends before."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(SILENCE_SECONDS, self.process.kill)
        watchdog.start()
        try:
            for _ in range(wanted):
                kind = ""
                while kind != "measured":
                    line = self.process.stdout.readline()
                    if not line.endswith("\n"):
                        return False
                    kind = json.loads(line)["event"]
                self.reported += 1
            return True
        finally:
            watchdog.cancel()

    def last(self) -> str:
        """Of what it has complained about."""
        self.complaints.seek(0)
        return self.complaints.read()[-2000:]

    def family(self) -> list[psutil.Process]:
        """All that the run has started and that lives, whoever is its parent by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue  # it has ended, or is somebody else's
        return found

    def helpers(self) -> dict[str, list[psutil.Process]]:
        """What may be killed without ending the run, by what it does."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self.family():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if command and "measurer-" in command[0]:
                found.setdefault("measuring program", []).append(process)
            elif any("spawn_main" in part for part in command):
                name = "builder" if self.board is None else "builder or client"
                found.setdefault(name, []).append(process)
        return found

    def kill_helper(self) -> None:
        """One of them, whichever it is; the server's turn comes as often as the others'."""
        helpers = self.helpers()
        names = sorted(helpers) + (["server"] if self.board is not None else [])
        if not names:
            return  # all are just being started
        name = self.rng.choice(names)
        if name == "server":
            assert self.board is not None
            self.board.restart()
        else:
            try:
                self.rng.choice(helpers[name]).kill()
            except psutil.NoSuchProcess:
                return  # it had just ended
        self.killed[name] += 1

    def go(self, kills: int) -> None:
        """Kill so many helpers and then the tuner.

        Raises:
            AssertionError: the run did not survive, or left something behind.
        """
        for i in range(kills + 1):
            if not self.events_until(self.rng.randrange(1, 6)):
                assert self.process.wait() == 0, f"it did not survive {self.killed}: {self.last()}"
                break
            time.sleep(self.rng.random() * 0.5)
            if i < kills:
                self.kill_helper()
        else:
            self.process.kill()
            self.process.wait()
            self.killed["tuner"] += 1
        assert self.process.stdout is not None
        rest = self.process.stdout.read().splitlines(keepends=True)
        self.reported += sum('"measured"' in line and line.endswith("\n") for line in rest)
        end = time.monotonic() + GRACE_SECONDS
        while (left := self.family()) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left, f"left behind: {[process.cmdline() for process in left]}"


def check(logs: Path, reported: int) -> None:
    """The log loads and holds at least so many successful measurements."""
    (folder,) = [path for path in logs.iterdir() if path.is_dir()]
    log = TuningLog(folder)
    held = sum(bool(record.seconds) for record in log.records)
    assert held >= reported, f"{reported} measurements were reported, the log holds {held}"


def load_as_database(logs: Path) -> int:
    """Records that MetaSchedule reads, after the next writer has cut off a torn line."""
    from tvm.s_tir import meta_schedule as ms

    (folder,) = [path for path in logs.iterdir() if path.is_dir()]
    with LogWriter(folder):
        pass
    return len(ms.database.JSONDatabase(work_dir=str(folder)))


def soak(kills: int, seed: int, folder: Path, share_rpc: float = 0.5) -> Counter[str]:
    """Runs until so many processes were killed; returns how many of each kind.

    Args:
        share_rpc: of the runs that measure through TVM's RPC server.

    Raises:
        AssertionError: something was lost or left behind.
    """
    rng, killed = random.Random(seed), Counter[str]()
    number, reported = 0, 0
    board = Board(folder) if share_rpc else None
    try:
        while killed.total() < kills:
            logs = folder / str(number)
            run = Run(logs, rng, board if rng.random() < share_rpc else None)
            try:
                run.go(min(rng.randrange(6), kills - killed.total() - 1))
            finally:
                run.process.kill()
            killed += run.killed
            print(f"{killed.total()} of {kills}: {dict(killed)}", file=sys.stderr)
            reported += run.reported
            check(logs, reported)
            if not run.killed["tuner"]:
                assert load_as_database(logs) >= reported
                number, reported = number + 1, 0  # that log has nothing left to search
        assert not logs.exists() or load_as_database(logs) >= reported
    finally:
        if board is not None:
            board.close()
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecc-soak-") as folder:
        started = time.monotonic()
        killed = soak(options.kills, options.seed, Path(folder))
        names = ", ".join(f"{count} x {name}" for name, count in killed.most_common())
        print(f"killed {names} in {time.monotonic() - started:.0f} s: nothing lost, nothing left")


if __name__ == "__main__":
    main()
