"""The outputs that every engine has to agree with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from .base import Engine, Network


class Reference(Engine):
    """ONNX Runtime without any optimisation, else onnx's own evaluator; never timed."""

    name = "reference"
    title = "reference"

    def version(self) -> str:
        import onnx

        return onnx.__version__

    def open(self, network: Network, folder: Path, threads: int) -> None:
        self._network = network
        self._outputs: dict[str, np.ndarray] = {}

    def step(self) -> None:
        network = self._network
        inputs = dict(network.inputs)
        if importlib.util.find_spec("onnxruntime"):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = onnxruntime.InferenceSession(
                str(network.model), options, providers=["CPUExecutionProvider"]
            )
            values = session.run(list(network.outputs), inputs)
        else:
            from onnx.reference import ReferenceEvaluator

            values = ReferenceEvaluator(str(network.model)).run(list(network.outputs), inputs)
        self._outputs = dict(zip(network.outputs, map(np.asarray, values), strict=True))

    def outputs(self) -> dict[str, np.ndarray]:
        return self._outputs
