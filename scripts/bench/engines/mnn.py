"""MNN's session API on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .base import Engine, Network


class Mnn(Engine):
    """A run copies the inputs in and the outputs out: MNN keeps neither in the caller's layout."""

    name = "mnn"
    title = "MNN"
    requires = {"MNN": "MNN"}  # noqa: RUF012

    def version(self) -> str:
        import MNN

        return MNN.version()

    def prepare(self, network: Network, folder: Path) -> None:
        target = folder / "model.mnn"
        os.chdir(folder)
        arguments = ["-f", "ONNX", "--modelFile", str(network.model), "--MNNModel", str(target)]
        run_tool("mnnconvert", [*arguments, "--bizCode", "bench"], target)

    def open(self, network: Network, folder: Path, threads: int) -> None:
        import MNN

        self._net = MNN.Interpreter(str(folder / "model.mnn"))
        settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
        self._session = self._net.createSession(settings)
        self._inputs = []
        for name, value in network.inputs.items():
            tensor = self._net.getSessionInput(self._session, name)
            if tuple(tensor.getShape()) != value.shape:
                self._net.resizeTensor(tensor, value.shape)
            self._inputs.append((tensor, _host_tensor(value)))
        self._net.resizeSession(self._session)
        self._outputs = {}
        for name in network.outputs:
            tensor = self._net.getSessionOutput(self._session, name)
            host = _host_tensor(np.zeros(tensor.getShape(), np.float32))
            self._outputs[name] = (tensor, host)

    def step(self) -> None:
        for tensor, host in self._inputs:
            tensor.copyFrom(host)
        self._net.runSession(self._session)
        for tensor, host in self._outputs.values():
            tensor.copyToHostTensor(host)

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: np.array(host.getNumpyData()) for name, (_, host) in self._outputs.items()}


def run_tool(name: str, arguments: list[str], target: Path) -> None:
    """Run one of MNN's tools, which is to write a file.

    Not by its command, nor by the package MNN.tools: these install packages and report home.
    """
    import _tools
    import MNN  # noqa: F401

    getattr(_tools, name)([name, *arguments])
    if not target.is_file() or not target.stat().st_size:
        raise RuntimeError(f"{name} wrote no model")


def _host_tensor(value: np.ndarray):
    import MNN

    # MNN has no 64-bit integers.
    kind, dtype = (
        (MNN.Halide_Type_Float, np.float32)
        if value.dtype.kind == "f"
        else (MNN.Halide_Type_Int, np.int32)
    )
    array = np.ascontiguousarray(value, dtype)
    return MNN.Tensor(array.shape, kind, array, MNN.Tensor_DimensionType_Caffe)
