"""Writes ONNX graphs operator by operator, with given or seeded random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

Pads = int | Sequence[int]


class Graph:
    """An ONNX graph under construction; every method adds nodes and returns an output's name."""

    def __init__(self, name: str, opset: int = 17) -> None:
        self.name = name
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._counts: dict[str, int] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: str = "float32") -> str:
        """A graph input; a string in ``shape`` is a named unknown dimension."""
        self._inputs.append(_value_info(name, shape, dtype))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Give ``value`` out as float32 graph output ``name``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name))
        self._outputs.append(_value_info(name, shape, "float32"))

    def constant(self, value: np.ndarray, hint: str = "constant") -> str:
        """An initializer; its name starts with ``hint``."""
        name = self._unique(hint)
        self._constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """An int64 vector, as axes, shapes and indices are given."""
        return self.constant(np.array(values, dtype=np.int64), "integers")

    def scalar(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, dtype=np.float32), "scalar")

    def node(self, operator: str, *inputs: str, **attributes) -> str:
        """One node with one output; an empty string skips an optional input."""
        name = self._unique(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def conv(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: int | tuple[int, int] = 1,
        pads: Pads | None = None,
        groups: int = 1,
    ) -> str:
        """2-D convolution; ``weight`` [out, in / groups, kh, kw], ``pads`` half the kernel if None.

        ``pads`` as in ONNX is (top, left, bottom, right), or one number for all four.
        """
        kernel = weight.shape[2:]
        if pads is None:
            pads = [kernel[0] // 2, kernel[1] // 2] * 2
        inputs = [x, self.constant(weight, "conv_weight")]
        if bias is not None:
            inputs.append(self.constant(bias, "conv_bias"))
        return self.node(
            "Conv",
            *inputs,
            kernel_shape=list(kernel),
            strides=[stride, stride] if isinstance(stride, int) else list(stride),
            pads=[pads] * 4 if isinstance(pads, int) else list(pads),
            group=groups,
        )

    def batch_norm(
        self,
        x: str,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        epsilon: float,
    ) -> str:
        """Normalise each channel (axis 1) with the given statistics."""
        inputs = [self.constant(v, "norm") for v in (scale, bias, mean, variance)]
        return self.node("BatchNormalization", x, *inputs, epsilon=epsilon)

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """[n, in] -> [n, out] with ``weight`` [out, in]."""
        inputs = [x, self.constant(weight, "linear_weight"), self.constant(bias, "linear_bias")]
        return self.node("Gemm", *inputs, transB=1)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def relu6(self, x: str) -> str:
        """min(max(x, 0), 6) as Clip, the way exporters write it."""
        return self.node("Clip", x, self.scalar(0.0), self.scalar(6.0))

    def max_pool(self, x: str, kernel: int, stride: int, pads: int = 0, ceil: bool = False) -> str:
        return self.node(
            "MaxPool",
            x,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pads] * 4,
            ceil_mode=int(ceil),
        )

    def pooled_features(self, x: str) -> str:
        """[n, c, h, w] -> mean over h and w, [n, c]."""
        return self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)

    def model(self) -> onnx.ModelProto:
        """The finished model, checked with full shape inference."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, self._constants
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        model.producer_name = "edgecc"
        onnx.checker.check_model(model, full_check=True)
        return model

    def _unique(self, hint: str) -> str:
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}_{number}"


class RandomWeights:
    """Seeded weights that keep activations at unit scale through deep ReLU networks.

    Args:
        seed: the same seed gives the same weights in the same order of calls.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def he(self, *shape: int, rectified: bool = True) -> np.ndarray:
        """float32 weights [out, in, ...] that turn inputs of unit scale into outputs of unit scale.

        The variance is 2 / fan-in behind a ReLU (He et al., 2015, eq. 10), 1 / fan-in otherwise.
        Each output's weights sum to zero where fan-in is large: otherwise the positive mean of
        ReLU activations takes over and the output of a deep network hardly depends on its input.

        Args:
            rectified: whether the input comes out of a ReLU.
        """
        weight = self._rng.standard_normal(shape)
        fan_in = math.prod(shape[1:])
        gain = 2.0 if rectified else 1.0
        if fan_in >= 16:
            weight -= weight.mean(axis=tuple(range(1, len(shape))), keepdims=True)
            # Without its mean, max(x, 0) of a unit normal x has variance 1/2 - 1/(2 pi).
            gain = 1 / (0.5 - 0.5 / math.pi) if rectified else 1.0
        return (weight * math.sqrt(gain / fan_in)).astype(np.float32)

    def near(self, center: float, spread: float, *shape: int) -> np.ndarray:
        """float32 values uniform in ``center`` +- ``spread``: biases and norm parameters."""
        return self._rng.uniform(center - spread, center + spread, shape).astype(np.float32)


def _value_info(name: str, shape: Sequence[int | str], dtype: str) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, list(shape))
