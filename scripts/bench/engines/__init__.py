"""The engines, one a file; each runs in a process of its own."""

from .base import Engine, Network
from .edgecc import Edgecc
from .mnn import Mnn
from .ncnn import Ncnn
from .onnx_runtime import OnnxRuntime
from .openvino import OpenVino
from .reference import Reference

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Edgecc, OnnxRuntime, OpenVino, Ncnn, Mnn)
}

__all__ = ["ENGINES", "Engine", "Network", "Reference"]
