"""The networks of the benchmark, as files with static shapes, and their sample inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import shape_inference

from scripts.modelzoo import samples
from scripts.modelzoo.registry import default_cache
from scripts.modelzoo.store import fetch
from scripts.modelzoo.zoo import MODELS

from .models import NETWORKS

Feeds = dict[str, np.ndarray]
SEED = 0


CALIBRATION_SAMPLES = 8

Draw = Callable[[np.random.Generator], Feeds]


def _picture(rng: np.random.Generator) -> Feeds:
    return samples.picture(rng, "image")


def _noise(name: str, *shape: int) -> Draw:
    return lambda rng: {name: rng.standard_normal(shape).astype(np.float32)}


# Built with seeded random weights: name -> sample inputs.
BUILT: dict[str, Draw] = {
    "mobilenet_v1": _picture,
    "mobilenet_v2": _picture,
    "mobilenet_v3_small": _picture,
    "resnet50": _picture,
    "squeezenet": _picture,
    "minilm": samples.sentence,
    "ds_cnn": _noise("features", 1, 1, 49, 10),
    "autoencoder": _noise("spectrum", 1, 640),
}
# Published ones, fetched.
FETCHED = ("efficientnet_lite0", "ppocrv4_det", "ppocrv4_rec")
SUITE = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_lite0",
    "resnet50",
    "squeezenet",
    "minilm",
    "ds_cnn",
    "autoencoder",
    "ppocrv4_det",
    "ppocrv4_rec",
)


def write_network(name: str, folder: Path) -> Path:
    """Writes model.onnx, inputs.npz, outputs.json and calibration.npz, of other samples.

    Args:
        name: of ``SUITE``.
        folder: is made.

    Raises:
        scripts.modelzoo.registry.FetchError: a published model can't be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs, *others = (_inputs(name, SEED + i) for i in range(1 + CALIBRATION_SAMPLES))
    if name in BUILT:
        model = NETWORKS[name]()
    else:
        model = onnx.load(str(fetch(name, default_cache())))
        model = bind(model, {key: value.shape for key, value in inputs.items()})
    names = [value.name for value in model.graph.input if value.name in inputs]
    onnx.save(model, str(folder / "model.onnx"))
    np.savez(folder / "inputs.npz", **{key: inputs[key] for key in names})
    stacked = {key: np.stack([other[key] for other in others]) for key in names}
    np.savez(folder / "calibration.npz", **stacked)
    outputs = [value.name for value in model.graph.output]
    (folder / "outputs.json").write_text(json.dumps(outputs))
    return folder


def _inputs(name: str, seed: int) -> Feeds:
    if name in BUILT:
        return BUILT[name](np.random.default_rng(seed))
    return MODELS[name].inputs(seed)


def bind(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model for inputs of exactly these shapes."""
    for value in model.graph.input:
        if value.name in shapes:
            value.type.tensor_type.shape.Clear()
            for extent in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = extent
    # What was inferred for open shapes would contradict.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(model, data_prop=True)
