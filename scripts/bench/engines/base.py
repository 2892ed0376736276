"""What the benchmark asks of an inference engine."""

from __future__ import annotations

import gc
import importlib.util
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compiler.runtime.timing import Timing

MIN_RUNS = 3
# Of a turn's time, spent before it to bring weights and code back into the caches.
WARM_SHARE = 0.1


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Args:
        model: an .onnx file, float32, all shapes static.
        inputs: sample values by name, in the graph's order.
        outputs: names in the graph's order.
        calibration: an .npz of samples for quantisation, by input name, along a leading axis.
        recipe: by which edgecc quantises: a file, or its defaults ("auto").
    """

    model: Path
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    calibration: Path
    recipe: str | Path = "auto"

    def with_model(self, model: Path) -> Network:
        """The same network from another file."""
        return replace(self, model=model)


class Engine(ABC):
    """One engine in its own process: made, opened once, then run many times.

    A subclass imports its library inside its methods, so that the table of engines can be read
    where none is installed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    # Module to look for -> what to tell pip.
    requires: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def missing(cls) -> str | None:
        """Why the engine can't be used here, and what to install; None when it can."""
        absent = [module for module in cls.requires if importlib.util.find_spec(module) is None]
        if not absent:
            return None
        modules = ", ".join(absent)
        commands = " && ".join(f"pip install {cls.requires[module]}" for module in absent)
        return f"{modules} not installed: {commands}"

    @abstractmethod
    def version(self) -> str:
        """Of the library that does the work."""

    def prepare(self, network: Network, folder: Path) -> None:  # noqa: B027
        """Convert or compile the model into ``folder``, whatever ``open`` needs."""

    @abstractmethod
    def open(self, network: Network, folder: Path, threads: int) -> None:
        """Load the prepared model with that many threads and put the inputs in place."""

    @abstractmethod
    def step(self) -> Any:
        """One inference, from inputs in place to outputs in place."""

    @abstractmethod
    def outputs(self) -> dict[str, np.ndarray]:
        """The last step's outputs by name; copies."""

    def bench(self, seconds: float) -> Timing:
        """Time single inferences for that long, at least three of them."""
        step, clock = self.step, time.perf_counter_ns
        warm_end = clock() + int(WARM_SHARE * seconds * 1e9)
        warmup = 0
        while warmup == 0 or clock() < warm_end:
            step()
            warmup += 1
        samples: list[int] = []
        gc.disable()
        try:
            end = clock() + int(seconds * 1e9)
            while len(samples) < MIN_RUNS or clock() < end:
                start = clock()
                step()
                samples.append(clock() - start)
        finally:
            gc.enable()
        return Timing.of([sample * 1e-6 for sample in samples], warmup, 0)
