"""Engines for tests/test_peers.py: found by name in the processes that the benchmark starts."""

from __future__ import annotations

import os

import numpy as np

from scripts.bench.engines.onnx_runtime import OnnxRuntime


class Wrong(OnnxRuntime):
    """Computes something slightly else."""

    name = "wrong"
    title = "Wrong"

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: value + np.float32(0.01) for name, value in super().outputs().items()}

    def bench(self, seconds: float):
        raise AssertionError("timed in spite of wrong outputs")


class Missing(OnnxRuntime):
    """Needs what nobody has."""

    name = "missing"
    title = "Missing"
    requires = {"no_such_module": "no-such-package"}  # noqa: RUF012


class Crashing(OnnxRuntime):
    """Takes its process with it when it is timed."""

    name = "crashing"
    title = "Crashing"

    def bench(self, seconds: float):
        os.abort()


class Unable(OnnxRuntime):
    """Can't convert the model."""

    name = "unable"
    title = "Unable"

    def prepare(self, network, folder) -> None:
        raise NotImplementedError("no operator Softmax\nand a long explanation")
