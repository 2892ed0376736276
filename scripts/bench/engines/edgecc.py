"""edgecc itself: a package for the target ``host``, run through the Python loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.runtime.timing import Timing

from .base import MIN_RUNS, WARM_SHARE, Engine, Network


class Edgecc(Engine):
    """Built anew at every run of the benchmark: its kernels are what is being worked on."""

    name = "edgecc"
    title = "edgecc"

    def version(self) -> str:
        import compiler

        return compiler.__version__

    def prepare(self, network: Network, folder: Path) -> None:
        import compiler

        package = folder / "package"
        compiler.build(network.model, "host", package, verify=False, tuning_logs=())

    def open(self, network: Network, folder: Path, threads: int) -> None:
        import compiler

        self._model = compiler.load(folder / "package", threads)
        self._inputs = network.inputs
        self._ms = 0.0

    def step(self) -> None:
        self._outputs = self._model.run(self._inputs)

    def outputs(self) -> dict[str, np.ndarray]:
        return dict(self._outputs)

    def bench(self, seconds: float) -> Timing:
        """By the loader's own loop, which passes the same buffers every time."""
        warmup = max(1, int(WARM_SHARE * seconds * 1e3 / self._ms)) if self._ms else 1
        timing = self._model.bench(
            self._inputs, warmup=warmup, min_runs=MIN_RUNS, max_runs=10**7, seconds=seconds
        )
        self._ms = timing.median_ms
        return timing
