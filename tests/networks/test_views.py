"""Random networks of concatenations, slices and element-wise operators against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.networks.check import check

OPS = (
    *("concat", "concat", "slice", "relu", "add", "conv", "grouped", "depthwise", "shuffle"),
    *("pool", "norm", "reshape", "excite"),
)


@dataclass(frozen=True)
class Step:
    """One operator over earlier tensors, chosen by numbers modulo their count."""

    op: str
    operands: tuple[int, int, int]


class Network:
    """Grows a graph over tensors [n, channels, 6, 4]; all tensors without a reader are results."""

    def __init__(self, channels: int, batch: int = 1) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"x": channels}
        self.shape = [batch, channels, 6, 4]

    def constant(self, value) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def emit(self, op: str, inputs: list[str], channels: int, **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.channels[name] = channels
        return name

    def apply(self, step: Step) -> None:
        names = list(self.channels)
        a, b, c = (names[-1 - i % min(6, len(names))] for i in step.operands)
        getattr(self, f"_{step.op}")(a, b, c, *step.operands[1:])

    def _concat(self, a: str, b: str, c: str, *_: int) -> None:
        channels = sum(self.channels[t] for t in (a, b, c))
        if channels <= 128:
            self.emit("Concat", [a, b, c], channels, axis=1)

    def _slice(self, a: str, b: str, c: str, first: int, length: int) -> None:
        n = self.channels[a]
        begin = first % n // 4 * 4
        end = min(n, begin + 4 + length % 3 * 4)
        limits = [self.constant(np.int64([v])) for v in (begin, end, 1)]
        self.emit("Slice", [a, *limits], end - begin)

    def _relu(self, a: str, *_) -> None:
        self.emit("Relu", [a], self.channels[a])

    def _add(self, a: str, b: str, c: str, other: int, _: int) -> None:
        n = self.channels[a]
        same = [t for t in self.channels if self.channels[t] == n]
        self.emit("Add", [a, same[other % len(same)]], n)

    def _conv(self, a: str, b: str, c: str, size: int, _: int) -> None:
        self._convolve(a, (4, 8, 12)[size % 3], 1)

    def _grouped(self, a: str, *_) -> None:
        groups = next(g for g in (4, 2, 3, 1) if self.channels[a] % g == 0)
        self._convolve(a, 3 * groups, groups)

    def _convolve(self, a: str, out: int, groups: int) -> None:
        depth = self.channels[a] // groups
        value = self.rng.standard_normal((out, depth, 1, 1)) / np.sqrt(depth)
        self.emit("Conv", [a, self.constant(value.astype("f4"))], out, group=groups)

    def _depthwise(self, a: str, *_) -> None:
        n = self.channels[a]
        value = self.constant((self.rng.standard_normal((n, 1, 3, 3)) / 3).astype("f4"))
        self.emit("Conv", [a, value], n, group=n, pads=[1] * 4)

    def _shuffle(self, a: str, *_) -> None:
        n = self.channels[a]
        groups = next(g for g in (3, 2, 1) if n % g == 0)
        y = self._viewed(a, self.shape[0], groups, n // groups, 6, 4)
        y = self.emit("Transpose", [y], n, perm=[0, 2, 1, 3, 4])
        del self.channels[y]
        self.channels[self._viewed(y, self.shape[0], n, 6, 4)] = n

    def _excite(self, a: str, *_) -> None:
        n = self.channels[a]
        point = self.emit("GlobalAveragePool", [a], n)
        del self.channels[point]
        self.emit("Mul", [a, point], n)

    def _pool(self, a: str, *_) -> None:
        self.emit("MaxPool", [a], self.channels[a], kernel_shape=[3, 3], pads=[1] * 4)

    def _norm(self, a: str, *_) -> None:
        n = self.channels[a]
        values = self.constant((0.5 + self.rng.random((n, 1, 1))).astype("f4"))
        self.emit("Add", [self.emit("Mul", [a, values], n), values], n)

    def _reshape(self, a: str, *_) -> None:
        n = self.channels[a]
        flat = self._viewed(a, self.shape[0], -1)
        self.channels[self._viewed(flat, self.shape[0], n, 6, 4)] = n

    def _viewed(self, a: str, *shape: int) -> str:
        """A reshape that later steps do not pick unless it gets channels."""
        name = self.emit("Reshape", [a, self.constant(np.int64(shape))], 0)
        del self.channels[name]
        return name

    def model(self) -> onnx.ModelProto:
        read = {i for node in self.nodes for i in node.input}
        results = [o for node in self.nodes for o in node.output if o not in read]
        graph = helper.make_graph(
            self.nodes,
            "views",
            [helper.make_tensor_value_info("x", 1, self.shape)],
            [helper.make_tensor_value_info(r, 1, None) for r in results],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def dense_block(layers: int = 4) -> onnx.ModelProto:
    """DenseNet: every layer appends to what all layers before it computed."""
    net = Network(8)
    whole = net.emit("Relu", ["x"], 8)
    for _ in range(layers):
        n = net.channels[whole]
        net.apply(Step("norm", (0, 0, 0)))
        new = net.emit("Relu", [list(net.channels)[-1]], n)
        weight = net.rng.standard_normal((8, n, 3, 3)) / np.sqrt(9 * n)
        new = net.emit("Conv", [new, net.constant(weight.astype("f4"))], 8, pads=[1] * 4)
        whole = net.emit("Concat", [whole, new], n + 8, axis=1)
    net.emit("Relu", [whole], net.channels[whole])
    return net.model()


@pytest.mark.parametrize("target", ["host", "x86_64_v4", "arm_cortex_a72", "riscv64"])
def test_dense_block_copies_nothing(target, tmp_path):
    program = check(dense_block(), target, tmp_path)
    assert not [c.label for c in program.calls if "concat" in c.label or "copy" in c.label]
    assert program.arena.nbytes <= 1.1 * program.arena.peak_live


def test_a_batch_of_two_is_copied(tmp_path):
    net = Network(8, batch=2)
    halves = [net.emit("Conv", ["x", net.constant(np.ones((8, 8, 1, 1), "f4"))], 8) for _ in "ab"]
    net.emit("Relu", [net.emit("Concat", halves, 16, axis=1)], 16)
    program = check(net.model(), "host", tmp_path)
    assert any("concat" in call.label for call in program.calls)


_steps = st.builds(Step, st.sampled_from(OPS), st.tuples(*[st.integers(0, 999)] * 3))


def check_random(steps: list[Step], channels: int, batch: int, folder) -> None:
    net = Network(channels, batch)
    for step in steps:
        net.apply(step)
    program = check(net.model(), "host", folder)
    assert program.arena.nbytes <= 1.1 * program.arena.peak_live


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_steps, min_size=8, max_size=16), channels=st.sampled_from([4, 8, 12]))
def test_random_networks(steps, channels, tmp_path_factory):
    check_random(steps, channels, 1, tmp_path_factory.mktemp("views"))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(_steps, min_size=4, max_size=30),
    channels=st.integers(3, 17),
    batch=st.integers(1, 2),
)
def test_many_random_networks(steps, channels, batch, tmp_path_factory):
    check_random(steps, channels, batch, tmp_path_factory.mktemp("views"))
