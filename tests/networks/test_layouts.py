"""Operators between convolutions keep the packed layout: no kernel only moves data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.networks.check import check

TARGETS = ["host", "x86_64_v4", "arm_cortex_a72", "riscv64"]


class Graph:
    """An ONNX graph of one input "x"; ``emit`` returns the name of the node's result."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(0)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def emit(self, op: str, *inputs, **attributes) -> str:
        """inputs: names, or arrays that become weights."""
        names = [i if isinstance(i, str) else self._weight(np.asarray(i)) for i in inputs]
        self.nodes.append(helper.make_node(op, names, [f"t{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def conv(self, x: str, ic: int, oc: int, *kernel: int, **attributes) -> str:
        shape = (oc, ic // attributes.get("group", 1), *kernel)
        weight = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        bias = self.rng.standard_normal(oc).astype("f4")
        return self.emit("Conv", x, weight.astype("f4"), bias, **attributes)

    def _weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def model(self, *results: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "layouts",
            [helper.make_tensor_value_info("x", 1, self.shape)],
            [helper.make_tensor_value_info(r, 1, None) for r in results],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def labels(program) -> list[str]:
    return [call.label for call in program.calls]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("mode", "scales"), [("nearest", (2, 2)), ("nearest", (1.5, 3)), ("linear", (2, 0.7))]
)
def test_resize_between_convolutions(target, mode, scales, tmp_path):
    g = Graph(1, 5, 6, 7)
    y = g.conv("x", 5, 20, 1, 1)
    y = g.emit("Resize", y, "", np.float32([1, 1, *scales]), mode=mode)
    y = g.conv(g.emit("Relu", y), 20, 3, 3, 3)
    program = check(g.model(y), target, tmp_path)
    moves = [name for name in labels(program) if "pack" in name]
    assert moves == ["unpack_channels"]  # of the result


def test_resize_of_a_row(tmp_path):
    g = Graph(1, 5, 9)
    y = g.conv("x", 5, 16, 3)
    y = g.emit("Resize", y, "", np.float32([1, 1, 2]), mode="linear")
    program = check(g.model(g.conv(y, 16, 8, 3)), "host", tmp_path)
    assert [name for name in labels(program) if "pack" in name] == ["unpack_channels"]


def squeeze_excite(g: Graph, x: str, channels: int) -> str:
    point = g.conv(g.emit("GlobalAveragePool", x), channels, 8, 1, 1)
    point = g.conv(g.emit("Relu", point), 8, channels, 1, 1)
    return g.emit("Mul", x, g.emit("HardSigmoid", point))


@pytest.mark.parametrize("target", TARGETS)
def test_squeeze_and_excite_computes_its_factors_once(target, tmp_path):
    g = Graph(1, 3, 9, 9)
    y = g.emit("Relu", g.conv("x", 3, 20, 3, 3))
    program = check(g.model(g.conv(squeeze_excite(g, y, 20), 20, 8, 1, 1)), target, tmp_path)
    assert [name for name in labels(program) if name.startswith("multiply")] == ["multiply"]
    assert len(program.calls) == 7


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_every_activation_joins_its_convolution(target, tmp_path):
    activations = ["Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu"]
    g = Graph(1, 8, 6, 6)
    results = [g.emit(op, g.conv("x", 8, 8, 3, 3)) for op in activations]
    y = g.conv("x", 8, 8, 3, 3)
    results.append(g.emit("Mul", y, g.emit("Sigmoid", y)))  # SiLU
    y = g.conv("x", 8, 8, 3, 3)
    error = g.emit("Add", g.emit("Erf", g.emit("Div", y, np.float32(2**0.5))), np.float32(1))
    results.append(g.emit("Mul", g.emit("Mul", y, error), np.float32(0.5)))  # GELU
    y = g.conv("x", 8, 8, 3, 3)
    results.append(g.emit("Clip", y, np.float32(0), np.float32(6)))
    program = check(g.model(*results), target, tmp_path)
    convolutions = [name for name in labels(program) if "conv" in name]
    assert len(convolutions) == len(results)
    others = set(labels(program)) - set(convolutions)
    assert others == {"unpack_channels"}


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_residual_additions_join_the_younger_convolution(target, tmp_path):
    """Also where the older tensor came from a 3x3 convolution, the younger from a 1x1 one."""
    g = Graph(1, 8, 6, 6)
    skip = g.emit("Relu", g.conv("x", 8, 8, 3, 3, pads=[1] * 4))
    for _ in range(2):
        y = g.emit("Relu", g.conv(skip, 8, 8, 1, 1))
        y = g.conv(g.conv(y, 8, 8, 3, 3, pads=[1] * 4), 8, 8, 1, 1)
        skip = g.emit("Relu", g.emit("Add", y, skip))
    program = check(g.model(skip), target, tmp_path)
    assert [name for name in labels(program) if "conv" not in name] == ["unpack_channels"]


def shuffle(g: Graph, x: str, groups: int, channels: int, *spatial: int) -> str:
    split = np.int64([1, groups, channels // groups, *spatial])
    y = g.emit("Transpose", g.emit("Reshape", x, split), perm=[0, 2, 1, 3, 4])
    return g.emit("Reshape", y, np.int64([1, channels, *spatial]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("groups", "channels"), [(4, 44), (2, 32), (3, 15)])
def test_channel_shuffles_move_nothing(target, groups, channels, tmp_path):
    """ShuffleNet's unit, twice, with a residual addition."""
    g = Graph(1, 3, 6, 5)
    x = g.emit("Relu", g.conv("x", 3, channels, 1, 1))
    y = x = g.emit("Relu", g.conv(x, channels, channels, 1, 1, group=groups))
    for _ in range(2):
        y = g.emit("Relu", g.conv(y, channels, channels, 1, 1, group=groups))
        y = shuffle(g, y, groups, channels, 6, 5)
        y = g.conv(y, channels, channels, 3, 3, group=channels, pads=[1] * 4)
        y = g.conv(y, channels, channels, 1, 1, group=groups)
        x = y = g.emit("Relu", g.emit("Add", y, x))
    program = check(g.model(y), target, tmp_path)
    moves = [name for name in labels(program) if "conv" not in name]
    assert moves == ["unpack_channels"]


@pytest.mark.parametrize("target", TARGETS)
def test_readers_of_shuffled_channels(target, tmp_path):
    """Every kind of operator finds the channels where a shuffle or padded groups left them."""
    g = Graph(1, 12, 4, 6)
    x = g.conv("x", 12, 20, 1, 1, group=4)
    scale = g.rng.standard_normal((20, 1, 1)).astype("f4")
    y = g.emit("Mul", g.emit("Sigmoid", shuffle(g, x, 4, 20, 4, 6)), scale)
    dense = g.conv("x", 12, 20, 1, 1)
    results = [
        g.conv(y, 20, 9, 3, 3),
        g.conv(y, 20, 10, 1, 1, group=2),
        g.emit("GlobalAveragePool", y),
        g.emit("MaxPool", y, kernel_shape=[3, 3]),
        g.emit("Resize", y, "", np.float32([1, 1, 2, 2]), mode="nearest"),
        g.emit("Concat", y, dense, axis=1),
        g.emit("Add", x, dense),
        g.emit("Mul", y, g.emit("GlobalAveragePool", x)),
        g.emit("LRN", y, size=5, alpha=1.0),
        shuffle(g, y, 4, 20, 4, 6),
        shuffle(g, x, 2, 20, 4, 6),
        shuffle(g, dense, 5, 20, 4, 6),
        g.emit("Reshape", x, np.int64([1, 4, 5, 4, 6])),
        g.emit("Transpose", g.emit("Reshape", x, np.int64([1, 4, 5, 4, 6])), perm=[0, 1, 2, 4, 3]),
        g.emit("Softmax", y, axis=1),
    ]
    check(g.model(*results), target, tmp_path)


@pytest.mark.parametrize("target", ["host", "arm_cortex_a72"])
def test_pads_between_convolutions(target, tmp_path):
    """Zeros join the next window; other values are written around packed pixels."""

    def pad(x: str, *widths: int, value: float = 0.0) -> str:
        top, left, bottom, right = widths
        return g.emit("Pad", x, np.int64([0, 0, top, left, 0, 0, bottom, right]), np.float32(value))

    g = Graph(1, 3, 6, 7)
    x = g.emit("Relu", g.conv(pad("x", 0, 1, 2, 3), 3, 20, 3, 3))
    results = [
        g.conv(pad(x, 1, 0, 1, 2), 20, 8, 3, 3, strides=[2, 2]),
        g.conv(pad(x, 2, 2, 2, 2), 20, 20, 5, 5, group=20),
        g.emit("AveragePool", pad(x, 1, 1, 1, 1), kernel_shape=[3, 3], strides=[2, 2]),
        g.conv(pad(x, 1, 1, 0, 0, value=0.5), 20, 8, 3, 3),
    ]
    program = check(g.model(*results), target, tmp_path)
    moves = [name for name in labels(program) if "pad" in name]
    assert moves == ["pad"]  # of 0.5
    assert labels(program).count("unpack_channels") == len(results)
