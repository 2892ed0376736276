"""Kill the tuner and its helpers at random moments, and look at what is left.

    python scripts/soak/kill_tuner.py --kills 200

Each round a run of `edgecc tune` on the shipped digit classifier loses one of its processes by
SIGKILL: the tuner itself, a builder, or the measuring program. Afterwards

- the log loads, here and as MetaSchedule's database,
- it holds every measurement that the run has reported,
- no process of a killed tuner is left,
- a run that lost a builder or the measuring program goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.tuning.log import TuningLog  # noqa: E402
from compiler.tuning.log_writer import LogWriter  # noqa: E402

GRACE_SECONDS = 10.0


class Round:
    """One run of the tuner with a victim."""

    def __init__(self, logs: Path, rng: random.Random) -> None:
        self.logs, self.rng = logs, rng
        command = ["tune", "--tuning-logs", str(logs), "--threads", "1", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compiler", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a full pipe would stop it
            text=True,
        )
        self.reported = 0

    def events_until(self, wanted: int) -> bool:
        """Read that many events of finished measurements; False where the run ends before."""
        assert self.process.stdout is not None
        seen = 0
        while seen < wanted:
            line = self.process.stdout.readline()
            if not line.endswith("\n"):
                return False
            if json.loads(line)["event"] == "measured":
                self.reported += 1
                seen += 1
        return True

    def victims(self) -> dict[str, list[psutil.Process]]:
        """The run's processes by what they do."""
        tuner = psutil.Process(self.process.pid)
        found: dict[str, list[psutil.Process]] = {"tuner": [tuner]}
        for child in tuner.children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if command and "measurer-" in command[0]:
                found.setdefault("measuring program", []).append(child)
            elif any("spawn_main" in part for part in command):
                found.setdefault("builder", []).append(child)
        return found

    def run(self) -> str:
        """Kill somebody; returns who it was, or raises AssertionError."""
        if not self.events_until(self.rng.randrange(1, 6)):
            self.process.wait()
            return "nobody: the search was over"
        time.sleep(self.rng.random() * 0.5)
        victims = self.victims()
        family = [p for group in victims.values() for p in group]
        name = self.rng.choice(sorted(victims))
        victim = self.rng.choice(victims[name])
        victim.kill()
        if name != "tuner":
            alive = self.events_until(1) or self.process.wait() == 0
            assert alive, f"the run did not survive the loss of its {name}"
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        rest = self.process.stdout.read().splitlines(keepends=True)
        self.reported += sum('"measured"' in line and line.endswith("\n") for line in rest)
        _, left = psutil.wait_procs(family, GRACE_SECONDS)
        assert not left, f"left behind by the {name}'s end: {[p.cmdline() for p in left]}"
        return name


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


def soak(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Rounds until so many processes were killed; returns how many of each kind.

    Raises:
        AssertionError: something was lost or left behind.
    """
    rng, killed = random.Random(seed), Counter[str]()
    number, reported = 0, 0
    while killed.total() < kills:
        logs = folder / str(number)
        current = Round(logs, rng)
        try:
            name = current.run()
        finally:
            current.process.kill()
        reported += current.reported
        check(logs, reported)
        if name.startswith("nobody"):
            number, reported = number + 1, 0  # a new log: this one has nothing left to search
        else:
            killed[name] += 1
    assert load_as_database(logs) >= reported
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
