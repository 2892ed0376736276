"""Graphs of networks that are published as weights without a graph. Weights: name -> array."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from .graph import Graph

Weights = Mapping[str, np.ndarray]


def efficientnet_lite0(weights: Weights) -> onnx.ModelProto:
    """EfficientNet-Lite0: ``image`` [1, 3, 224, 224], (RGB - 127) / 128 -> ``logits`` [1, 1000].

    Tan and Le, 2019 (arXiv 1905.11946), table 1, without squeeze-and-excitation and with ReLU6.
    Strided convolutions pad as TensorFlow's SAME does: the odd row and column last.
    """
    net = Graph("efficientnet_lite0")
    size = 224

    def unit(x: str, conv: str, norm: str, stride: int = 1, groups: int = 1) -> str:
        nonlocal size
        weight = weights[f"{conv}.weight"]
        out = -(-size // stride)
        padding = max((out - 1) * stride + weight.shape[2] - size, 0)
        first, last = padding // 2, padding - padding // 2
        size = out
        x = net.conv(x, weight, None, stride, [first, first, last, last], groups)
        return _norm(net, x, weights, norm, 1e-3)

    x = net.relu6(unit(net.input("image", [1, 3, 224, 224]), "_conv_stem", "_bn0", stride=2))
    block = 0
    for repeats, first_stride in [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)]:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            name = f"_blocks.{block}"
            y = x
            if f"{name}._expand_conv.weight" in weights:
                y = net.relu6(unit(y, f"{name}._expand_conv", f"{name}._bn0"))
            groups = weights[f"{name}._depthwise_conv.weight"].shape[0]
            y = net.relu6(unit(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups))
            y = unit(y, f"{name}._project_conv", f"{name}._bn2")
            x = net.node("Add", y, x) if repeat > 0 else y
            block += 1
    x = net.relu6(unit(x, "_conv_head", "_bn1"))
    x = net.linear(net.pooled_features(x), weights["_fc.weight"], weights["_fc.bias"])
    net.output(x, "logits", [1, 1000])
    return net.model()


def crepe_tiny(weights: Weights) -> onnx.ModelProto:
    """CREPE, tiny: ``frames`` [n, 1024] (audio at 16 kHz) -> ``pitch`` [n, 360] probabilities.

    Kim et al., 2018 (arXiv 1802.06182): six convolutions along time, norm behind the ReLU.
    """
    net = Graph("crepe_tiny")
    x = net.node("Unsqueeze", net.input("frames", ["n", 1024]), net.integers(1, 3))
    for layer in range(1, 7):
        pads = [254, 0, 254, 0] if layer == 1 else [31, 0, 32, 0]
        weight, bias = weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"]
        x = net.relu(net.conv(x, weight, bias, (4, 1) if layer == 1 else 1, pads))
        x = _norm(net, x, weights, f"conv{layer}_BN", 0.0010000000474974513)
        x = net.node("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])
    x = net.node("Transpose", x, perm=[0, 2, 1, 3])
    x = net.node("Reshape", x, net.integers(-1, 256))
    x = net.linear(x, weights["classifier.weight"], weights["classifier.bias"])
    net.output(net.node("Sigmoid", x), "pitch", ["n", 360])
    return net.model()


def _norm(net: Graph, x: str, weights: Weights, name: str, epsilon: float) -> str:
    scale, bias, mean, variance = (
        weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return net.batch_norm(x, scale, bias, mean, variance, epsilon)
