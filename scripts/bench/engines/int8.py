"""The engines with networks quantised to int8, each by its own tool on the same samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .base import Network
from .edgecc import Edgecc
from .litert import LiteRt, convert
from .mnn import Mnn, run_tool
from .onnx_runtime import OnnxRuntime
from .openvino import OpenVino


def samples_of(network: Network) -> Iterator[dict[str, np.ndarray]]:
    """One sample after the other, shaped as the network's inputs."""
    with np.load(network.calibration, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    for index in range(len(next(iter(arrays.values())))):
        yield {name: array[index] for name, array in arrays.items()}


def with_channel_scales(model: Path, upgraded: Path) -> None:
    """The model in opset 13 at least, the first whose DequantizeLinear has an axis."""
    import onnx
    from onnx.version_converter import convert_version

    found = onnx.load(str(model))
    opset = next(entry.version for entry in found.opset_import if entry.domain in ("", "ai.onnx"))
    onnx.save(convert_version(found, 13) if opset < 13 else found, str(upgraded))


class EdgeccInt8(Edgecc):
    """Post-training quantisation, by its defaults or by a recipe."""

    def prepare(self, network: Network, folder: Path) -> None:
        import compiler

        compiler.build(
            network.model,
            "host",
            folder / "package",
            verify=False,
            tuning_logs=(),
            quantize="int8",
            calibration=network.calibration,
            recipe=network.recipe,
        )


class OnnxRuntimeInt8(OnnxRuntime):
    """Static QDQ quantisation: uint8 activations, int8 weights for each channel.

    Where the CPU has no VNNI, weights have 7 bits, as its documentation advises.
    """

    requires = {"onnxruntime": "onnxruntime", "sympy": "sympy"}  # noqa: RUF012

    def prepare(self, network: Network, folder: Path) -> None:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.samples = samples_of(network)

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.samples, None)

        vnni = "vnni" in Path("/proc/cpuinfo").read_text(errors="replace")
        prepared = str(folder / "prepared.onnx")
        with_channel_scales(network.model, folder / "upgraded.onnx")
        quant_pre_process(str(folder / "upgraded.onnx"), prepared)
        quantize_static(
            prepared,
            str(folder / "model.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not vnni,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    def open(self, network: Network, folder: Path, threads: int) -> None:
        super().open(network.with_model(folder / "model.onnx"), folder, threads)


class OpenVinoInt8(OpenVino):
    """NNCF's post-training quantisation with its defaults."""

    requires = {"openvino": "openvino", "nncf": "nncf"}  # noqa: RUF012

    def prepare(self, network: Network, folder: Path) -> None:
        import nncf
        import openvino

        model = openvino.Core().read_model(str(network.model))
        samples = list(samples_of(network))
        attention = any(op.get_type_name() == "Softmax" for op in model.get_ops()[:-10])
        quantised = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
        )
        openvino.save_model(quantised, folder / "model.xml", compress_to_fp16=False)

    def open(self, network: Network, folder: Path, threads: int) -> None:
        super().open(network.with_model(folder / "model.xml"), folder, threads)


class MnnInt8(Mnn):
    """MNN's offline quantisation of features and weights, with its defaults."""

    def prepare(self, network: Network, folder: Path) -> None:
        super().prepare(network, folder)
        count = 0
        for sample in samples_of(network):
            _write_sample(sample, network.outputs, folder / "samples" / str(count))
            count += 1
        settings = {
            "input_type": "sequence",
            "path": f"{folder / 'samples'}/",
            "used_sample_num": count,
            "feature_quantize_method": "KL",
            "weight_quantize_method": "MAX_ABS",
        }
        config = folder / "config.json"
        config.write_text(json.dumps(settings))
        target = folder / "int8.mnn"
        run_tool("mnnquant", [str(folder / "model.mnn"), str(target), str(config)], target)
        target.replace(folder / "model.mnn")


class LiteRtInt8(LiteRt):
    """TensorFlow's post-training quantisation of activations and of weights for each channel."""

    def prepare(self, network: Network, folder: Path) -> None:
        samples = list(samples_of(network))
        joined = {name: np.concatenate([s[name] for s in samples]) for name in network.inputs}
        convert(network, folder, joined)
        (made,) = (
            p for p in folder.glob("converted/*_integer_quant.tflite") if "full" not in p.stem
        )
        made.replace(folder / "model.tflite")


def _write_sample(sample: dict[str, np.ndarray], outputs: tuple[str, ...], folder: Path) -> None:
    """As MNN's tools read it: the shapes in a file, the values in one for each input."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [{"name": name, "shape": list(value.shape)} for name, value in sample.items()]
    description = {"inputs": inputs, "outputs": list(outputs)}
    (folder / "input.json").write_text(json.dumps(description))
    for name, value in sample.items():
        np.savetxt(folder / f"{name}.txt", value.reshape(-1, 1), fmt="%.7g")
