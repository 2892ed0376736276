"""The engines, one a file; each runs in a process of its own."""

from .base import Engine, Network
from .edgecc import Edgecc
from .int8 import EdgeccInt8, LiteRtInt8, MnnInt8, OnnxRuntimeInt8, OpenVinoInt8
from .litert import LiteRt
from .mnn import Mnn
from .ncnn import Ncnn
from .onnx_runtime import OnnxRuntime
from .openvino import OpenVino
from .reference import Reference

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Edgecc, OnnxRuntime, OpenVino, Ncnn, Mnn, LiteRt)
}

# Those that quantise, under the same names.
INT8_ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (EdgeccInt8, OnnxRuntimeInt8, OpenVinoInt8, MnnInt8, LiteRtInt8)
}

__all__ = ["ENGINES", "INT8_ENGINES", "Engine", "Network", "Reference"]
