"""Prepares, checks and times the engines on one network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .engines import Engine, Reference
from .processes import EngineError, Process, choose_cpus
from .results import Entry, Row, relative_error

Note = Callable[[str], None]
# Wide enough for peers that approximate more freely than edgecc may (its own limit is 1e-4): MNN
# is at 1e-3 on text detection. A mistake is far beyond.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Args:
        threads: numbers of threads, one after the other.
        rounds: turns of each engine.
        seconds: of one turn; at least three inferences are timed.
        tolerance: relative error of the outputs above which nothing is timed.
    """

    threads: tuple[int, ...] = (1, 2)
    rounds: int = 10
    seconds: float = 0.3
    tolerance: float = TOLERANCE


def measure(
    name: str, network: Path, engines: Sequence[type[Engine]], plan: Plan, note: Note
) -> Iterator[Row]:
    """One row a number of threads, each as soon as it is measured.

    Args:
        network: folder that suite.write_network made; engines convert into folders of theirs.
    Raises:
        EngineError: there is no reference, or there are too few cores.
    """
    expected = _reference(network)
    failed: dict[str, str] = {}
    for engine in engines:
        note(f"{name}: {engine.title} prepares")
        folder = network / engine.name
        folder.mkdir(exist_ok=True)
        try:
            with Process(engine, folder / "log.txt") as process:
                process.ask("prepare", network=str(network), folder=str(folder))
        except EngineError as error:
            failed[engine.name] = f"can't prepare it: {error}"
    for threads in plan.threads:
        note(f"{name}: {plan.rounds} rounds, {threads} thread{'s' if threads > 1 else ''}")
        entries = {engine.name: Entry(engine.name) for engine in engines}
        for unprepared, why in failed.items():
            entries[unprepared].refuse(why)
        ready = [engine for engine in engines if engine.name not in failed]
        _measure_threads(network, ready, entries, expected, plan, choose_cpus(threads))
        yield Row(name, threads, entries)


def _reference(network: Path) -> dict[str, np.ndarray]:
    folder = network / Reference.name
    folder.mkdir(exist_ok=True)
    with Process(Reference, folder / "log.txt") as process:
        process.ask("open", network=str(network), folder=str(folder), cpus=choose_cpus(1))
        return _outputs(process, folder)


def _outputs(process: Process, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "outputs.npz"
    process.ask("outputs", path=str(path))
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _measure_threads(
    network: Path,
    engines: Sequence[type[Engine]],
    entries: dict[str, Entry],
    expected: dict[str, np.ndarray],
    plan: Plan,
    cpus: list[int],
) -> None:
    with contextlib.ExitStack() as stack:
        running: dict[str, Process] = {}
        for engine in engines:
            folder, entry = network / engine.name, entries[engine.name]
            process = Process(engine, folder / "log.txt", len(cpus))
            stack.callback(process.close)
            try:
                process.ask("open", network=str(network), folder=str(folder), cpus=cpus)
                entry.error, why = relative_error(_outputs(process, folder), expected)
                if not entry.error <= plan.tolerance:
                    wrong = why or f"relative error {entry.error:.1e}, allowed {plan.tolerance:.1e}"
                    entry.refuse(f"wrong: {wrong}", wrong=True)
                    process.close()
                    continue
                process.ask("bench", seconds=plan.seconds)  # to warm up
                running[engine.name] = process
            except EngineError as error:
                entry.refuse(f"can't run it: {error}")
                process.close()
        for _ in range(plan.rounds):
            for name, process in list(running.items()):
                try:
                    _turn(process, entries[name], plan.seconds)
                except EngineError as error:
                    entries[name].refuse(f"ended while it was timed: {error}")
                    del running[name]


def _turn(process: Process, entry: Entry, seconds: float) -> None:
    timing = process.ask("bench", seconds=seconds)
    entry.medians_ms.append(timing["median_ms"])
    entry.minima_ms.append(timing["min_ms"])
    entry.runs += timing["runs"]
