"""ONNX Runtime with its CPU provider and default optimisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Engine, Network


class OnnxRuntime(Engine):
    """Inputs and outputs are bound beforehand, so that a run copies nothing."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    requires = {"onnxruntime": "onnxruntime"}  # noqa: RUF012

    def version(self) -> str:
        import onnxruntime

        return onnxruntime.__version__

    def open(self, network: Network, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(network.model), options, providers=["CPUExecutionProvider"]
        )
        self._names = network.outputs
        self._binding = self._session.io_binding()
        for name, value in network.inputs.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(value))
        # The first run finds the outputs' sizes; later ones write to the same buffers.
        for name in network.outputs:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        results = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for name, value in zip(network.outputs, results, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def step(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, np.ndarray]:
        values = (value.numpy().copy() for value in self._binding.get_outputs())
        return dict(zip(self._names, values, strict=True))
