"""The process of one engine: takes commands as JSON lines on stdin, answers on its old stdout.

Started by scripts/bench/processes.py; the argument is the engine's class, "module:Class".
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .engines.base import Engine, Network

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until stdin ends."""
    # A stopped process would outlive a driver that was killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    module, name = sys.argv[1].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)()
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"value": _serve(engine, json.loads(line))}
        except Exception as error:  # whatever a foreign engine raises
            words = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {words[0]}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _serve(engine: Engine, command: dict[str, Any]) -> Any:
    what = command["do"]
    if what == "version":
        return engine.version()
    if what == "prepare":
        engine.prepare(_network(command["network"]), Path(command["folder"]))
        return None
    if what == "open":
        os.sched_setaffinity(0, command["cpus"])
        threads = len(command["cpus"])
        engine.open(_network(command["network"]), Path(command["folder"]), threads)
        return None
    if what == "outputs":
        engine.step()
        np.savez(command["path"], **engine.outputs())
        return None
    if what == "bench":
        return dataclasses.asdict(engine.bench(command["seconds"]))
    raise ValueError(f"no command {what!r}")


def _network(folder: str) -> Network:
    """Reads what scripts/bench/suite.py wrote."""
    path = Path(folder)
    outputs = json.loads((path / "outputs.json").read_text())
    with np.load(path / "inputs.npz", allow_pickle=False) as data:
        inputs = {name: data[name] for name in data.files}
    return Network(path / "model.onnx", inputs, tuple(outputs), path / "calibration.npz")


if __name__ == "__main__":
    main()
