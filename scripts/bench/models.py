"""Write a benchmark network with seeded random weights as ONNX.

    python scripts/bench/models.py mobilenet_v2 -o mobilenet_v2.onnx

The architectures are the published ones, batch norm folded into the convolutions as a deployed
model has it. Random weights are for speed and numerics only: no network here knows anything.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modelzoo import encoder
from modelzoo.graph import Graph, RandomWeights
from modelzoo.registry import write_atomically


class Network(Graph):
    """A graph whose layers draw their weights themselves."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__(name)
        self.weights = RandomWeights(seed)

    def layer(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        pads=None,
        groups: int = 1,
        rectified: bool = True,
        gain: float = 1.0,
    ) -> str:
        """Convolution with bias; ``rectified``: its input comes out of a ReLU."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        weight = self.weights.he(outputs, inputs // groups, kh, kw, rectified=rectified)
        weight *= np.float32(gain)
        bias = self.weights.near(0.0, 0.1, outputs)
        return self.conv(x, weight, bias, stride, pads, groups)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        """Fully connected layer with bias."""
        weight = self.weights.he(outputs, inputs)
        return self.linear(x, weight, self.weights.near(0.0, 0.1, outputs))


def mobilenet_v1() -> onnx.ModelProto:
    """Howard et al., 2017 (arXiv 1704.04861), width 1.0, 224 x 224."""
    net = Network("mobilenet_v1")
    x = net.input("image", [1, 3, 224, 224])
    x = net.relu6(net.layer(x, 3, 32, 3, stride=2))
    channels = 32
    for outputs, stride in (
        [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
        + [(512, 1)] * 5
        + [(1024, 2), (1024, 1)]
    ):
        x = net.relu6(net.layer(x, channels, channels, 3, stride=stride, groups=channels))
        x = net.relu6(net.layer(x, channels, outputs))
        channels = outputs
    net.output(net.dense(net.pooled_features(x), 1024, 1000), "logits", [1, 1000])
    return net.model()


def mobilenet_v2() -> onnx.ModelProto:
    """Sandler et al., 2018 (arXiv 1801.04381), table 2, width 1.0, 224 x 224."""
    net = Network("mobilenet_v2")
    x = net.input("image", [1, 3, 224, 224])
    x = net.relu6(net.layer(x, 3, 32, 3, stride=2))
    channels = 32
    for expansion, outputs, repeats, first_stride in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            hidden = channels * expansion
            y = net.relu6(net.layer(x, channels, hidden, rectified=False)) if expansion > 1 else x
            y = net.relu6(net.layer(y, hidden, hidden, 3, stride=stride, groups=hidden))
            y = net.layer(y, hidden, outputs)
            x = net.node("Add", x, y) if stride == 1 and channels == outputs else y
            channels = outputs
    x = net.relu6(net.layer(x, 320, 1280, rectified=False))
    net.output(net.dense(net.pooled_features(x), 1280, 1000), "logits", [1, 1000])
    return net.model()


def mobilenet_v3_small() -> onnx.ModelProto:
    """Howard et al., 2019 (arXiv 1905.02244), table 2, width 1.0, 224 x 224."""
    net = Network("mobilenet_v3_small")

    def activate(x: str, hard_swish: bool) -> str:
        return net.node("HardSwish", x) if hard_swish else net.relu(x)

    def squeeze_excite(x: str, channels: int) -> str:
        squeezed = max(8, int(channels / 4 + 4) // 8 * 8)
        y = net.node("GlobalAveragePool", x)
        y = net.relu(net.layer(y, channels, squeezed))
        y = net.node("HardSigmoid", net.layer(y, squeezed, channels), alpha=1 / 6, beta=0.5)
        return net.node("Mul", y, x)

    x = activate(net.layer(net.input("image", [1, 3, 224, 224]), 3, 16, 3, stride=2), True)
    channels = 16
    for kernel, hidden, outputs, excite, hard_swish, stride in [
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ]:
        y = x
        if hidden != channels:
            y = activate(net.layer(y, channels, hidden, rectified=False), hard_swish)
        y = net.layer(y, hidden, hidden, kernel, stride=stride, groups=hidden)
        y = activate(y, hard_swish)
        y = squeeze_excite(y, hidden) if excite else y
        # Squeeze-and-excitation about halves its input; without the gain the signal would fade.
        y = net.layer(y, hidden, outputs, gain=2.2 if excite else 1.0)
        x = net.node("Add", x, y) if stride == 1 and channels == outputs else y
        channels = outputs
    x = net.pooled_features(activate(net.layer(x, 96, 576, rectified=False), True))
    x = net.dense(activate(net.dense(x, 576, 1024), True), 1024, 1000)
    net.output(x, "logits", [1, 1000])
    return net.model()


def resnet50() -> onnx.ModelProto:
    """He et al., 2015 (arXiv 1512.03385), table 1; a block's stride is in its 3 x 3 layer."""
    net = Network("resnet50")
    x = net.relu(net.layer(net.input("image", [1, 3, 224, 224]), 3, 64, 7, stride=2))
    x = net.max_pool(x, 3, 2, pads=1)
    channels = 64
    for width, repeats, first_stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            y = net.relu(net.layer(x, channels, width))
            y = net.relu(net.layer(y, width, width, 3, stride=stride))
            y = net.layer(y, width, 4 * width, gain=0.25)  # as in trained nets, a small step
            if repeat == 0:
                x = net.layer(x, channels, 4 * width, stride=stride, pads=0)
            x = net.relu(net.node("Add", y, x))
            channels = 4 * width
    net.output(net.dense(net.pooled_features(x), 2048, 1000), "logits", [1, 1000])
    return net.model()


def squeezenet() -> onnx.ModelProto:
    """SqueezeNet 1.1 of Iandola et al., 2016 (arXiv 1602.07360) and its authors' repository."""
    net = Network("squeezenet")
    x = net.relu(net.layer(net.input("image", [1, 3, 224, 224]), 3, 64, 3, stride=2, pads=0))
    channels = 64
    for fires in [(16, 16), (32, 32), (48, 48, 64, 64)]:
        x = net.max_pool(x, 3, 2, ceil=True)
        for squeeze in fires:
            x = net.relu(net.layer(x, channels, squeeze))
            narrow = net.relu(net.layer(x, squeeze, 4 * squeeze))
            wide = net.relu(net.layer(x, squeeze, 4 * squeeze, 3))
            x = net.node("Concat", narrow, wide, axis=1)
            channels = 8 * squeeze
    x = net.relu(net.layer(x, channels, 1000))
    net.output(net.pooled_features(x), "logits", [1, 1000])
    return net.model()


def minilm() -> onnx.ModelProto:
    """The encoder of all-MiniLM-L6-v2 at batch 1, sequence 128."""
    return encoder.minilm(encoder.random_weights(), batch=1, sequence=128, sentence=False)


def ds_cnn() -> onnx.ModelProto:
    """Keyword spotting of MLPerf Tiny (Banbury et al., 2021, arXiv 2106.07597): 49 x 10 MFCCs."""
    net = Network("ds_cnn")
    # TensorFlow's SAME padding of a 10 x 4 kernel at stride 2: one row more below than above.
    pads = (4, 1, 5, 1)
    x = net.input("features", [1, 1, 49, 10])
    x = net.relu(net.layer(x, 1, 64, (10, 4), stride=2, pads=pads))
    for _ in range(4):
        x = net.relu(net.layer(x, 64, 64, 3, groups=64))
        x = net.relu(net.layer(x, 64, 64))
    x = net.dense(net.pooled_features(x), 64, 12)
    net.output(net.node("Softmax", x, axis=1), "probabilities", [1, 12])
    return net.model()


def autoencoder() -> onnx.ModelProto:
    """Anomaly detection of MLPerf Tiny: five frames of 128 mel bands in and out."""
    net = Network("autoencoder")
    x = net.input("spectrum", [1, 640])
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    for inputs, outputs in itertools.pairwise(widths):
        x = net.relu(net.dense(x, inputs, outputs))
    net.output(net.dense(x, 128, 640), "reconstruction", [1, 640])
    return net.model()


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    network.__name__: network
    for network in (
        mobilenet_v1,
        mobilenet_v2,
        mobilenet_v3_small,
        resnet50,
        squeezenet,
        minilm,
        ds_cnn,
        autoencoder,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, help="default: NAME.onnx")
    args = parser.parse_args()
    output = args.output or Path(f"{args.name}.onnx")
    model = NETWORKS[args.name]()
    write_atomically(output, lambda path: onnx.save(model, str(path)))
    count = sum(int(np.prod(weight.dims)) for weight in model.graph.initializer)
    print(f"{output}: {len(model.graph.node)} nodes, {count:,} parameters")


if __name__ == "__main__":
    main()
