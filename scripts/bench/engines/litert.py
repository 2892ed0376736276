"""LiteRT (formerly TensorFlow Lite) with XNNPACK, of networks that onnx2tf can convert."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .base import Engine, Network

# The channels of pictures come last there.
LAST = (0, 2, 3, 1)
FIRST = (0, 3, 1, 2)
# A file that onnx2tf looks for in its folder, else on the network, to compare the network before
# and after with; any numbers will do.
PICTURES = "calibration_image_sample_data_20x128x128x3_float32.npy"


class LiteRt(Engine):
    """A run begins with its inputs in place."""

    name = "litert"
    title = "LiteRT"
    requires = {  # noqa: RUF012
        "ai_edge_litert": "ai-edge-litert",
        "onnx2tf": "onnx2tf",
        "tensorflow": "tensorflow-cpu",
    }

    def version(self) -> str:
        from importlib.metadata import version

        return version("ai-edge-litert")

    def prepare(self, network: Network, folder: Path) -> None:
        convert(network, folder)
        next(folder.glob("converted/*_float32.tflite")).replace(folder / "model.tflite")

    def open(self, network: Network, folder: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(str(folder / "model.tflite"), num_threads=threads)
        self._net.allocate_tensors()
        details = {d["name"].split(":")[0]: d for d in self._net.get_input_details()}
        for name, value in network.inputs.items():
            found = _detail(details, name)
            if tuple(found["shape"]) != value.shape:
                value = value.transpose(LAST)
            self._net.set_tensor(found["index"], value.astype(found["dtype"]))
        self._names = network.outputs

    def step(self) -> None:
        self._net.invoke()

    def outputs(self) -> dict[str, np.ndarray]:
        found = sorted(self._net.get_output_details(), key=lambda detail: detail["name"])
        values = [self._net.get_tensor(detail["index"]) for detail in found]
        return {
            name: value.transpose(FIRST) if value.ndim == 4 else value
            for name, value in zip(self._names, values, strict=True)
        }


def convert(network: Network, folder: Path, samples: dict[str, np.ndarray] | None = None) -> None:
    """Writes models into ``folder``/converted, also in integers where there are samples.

    Args:
        samples: of each input, along its first axis.
    """
    import onnx2tf

    os.chdir(folder)
    np.save(PICTURES, np.random.default_rng(0).random((20, 128, 128, 3), dtype="float32"))
    data = []
    for name, values in (samples or {}).items():
        file = folder / f"{name}.npy"
        np.save(file, values.transpose(LAST) if values.ndim == 4 else values)
        unit = (1,) * values.ndim
        data.append([name, str(file), np.zeros(unit).tolist(), np.ones(unit).tolist()])
    onnx2tf.convert(
        input_onnx_file_path=str(network.model),
        output_folder_path=str(folder / "converted"),
        non_verbose=True,
        output_integer_quantized_tflite=bool(data),
        quant_type="per-channel",
        custom_input_op_name_np_data_path=data or None,
    )


def _detail(details: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Of the input that is called so, with what TensorFlow puts around its name."""
    if len(details) == 1:
        return next(iter(details.values()))
    return next(detail for key, detail in details.items() if key.endswith(name))
