"""OpenVINO's CPU plugin, tuned for latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Engine, Network


class OpenVino(Engine):
    """Reads ONNX as it is."""

    name = "openvino"
    title = "OpenVINO"
    requires = {"openvino": "openvino"}  # noqa: RUF012

    def version(self) -> str:
        import openvino

        return openvino.__version__.split("-")[0]

    def open(self, network: Network, folder: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Else bfloat16 or float16 where the CPU has them.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(network.model)), "CPU", settings)
        self._names = network.outputs
        self._request = compiled.create_infer_request()
        for name, value in network.inputs.items():
            self._request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(value)))

    def step(self) -> None:
        self._request.infer(share_inputs=True, share_outputs=True)

    def outputs(self) -> dict[str, np.ndarray]:
        tensors = self._request.output_tensors
        values = (np.array(tensor.data) for tensor in tensors)
        return dict(zip(self._names, values, strict=True))
