"""Write a benchmark network with seeded random weights as ONNX.

    python scripts/bench/models.py mobilenet_v2 -o mobilenet_v2.onnx

The architectures are the published ones, batch norm folded into the convolutions as a deployed
model has it. Random weights are for speed and numerics only: no network here knows anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    ) -> str:
        """Convolution with bias; ``rectified``: its input comes out of a ReLU."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        weight = self.weights.he(outputs, inputs // groups, kh, kw, rectified=rectified)
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


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
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
