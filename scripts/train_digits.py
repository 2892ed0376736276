"""Train the small digit classifier that ships in compiler/data, and export it as ONNX.

Needs torch==2.13.0 (CPU), numpy, onnx and onnxruntime, and npm for one data set; run it in an
environment of its own:

    python -m venv /tmp/train && /tmp/train/bin/pip install torch==2.13.0 numpy onnx onnxruntime
    /tmp/train/bin/python scripts/train_digits.py

Seeds are fixed; the last epoch's averaged weights are taken, so the held-out digits choose nothing.
Writes compiler/data/digits.onnx, compiler/data/digits_calibration.npz (training digits) and
tests/data/digits_test.npz (held-out digits).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as functional
from modelzoo.digits import Digits, load_split
from modelzoo.registry import default_cache
from onnx import TensorProto, helper, numpy_helper
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
SEED = 20240711
BATCH = 100
CALIBRATION_SAMPLES = 64
TEST_SAMPLES = 400


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, and ReLU if asked; [n, c, h, w] float32."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu=True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return functional.relu(x) if self.relu else x


class SeparableBlock(nn.Module):
    """Depthwise 3x3, pointwise 1x1; at stride 1 the input is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.depthwise = ConvUnit(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvUnit(inputs, outputs, 1, relu=not self.residual)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pointwise(self.depthwise(x))
        return functional.relu(x + y) if self.residual else y


class DigitNet(nn.Module):
    """[n, 1, 28, 28] float32 in 0..1 -> [n, 10] float32 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 16, 3)
        self.blocks = nn.Sequential(
            SeparableBlock(16, 40, 2),
            SeparableBlock(40, 40, 1),
            SeparableBlock(40, 40, 1),
            SeparableBlock(40, 96, 2),
            SeparableBlock(96, 96, 1),
            SeparableBlock(96, 96, 1),
        )
        self.head = ConvUnit(96, 128, 1)
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return self.classifier(functional.dropout(x, 0.2, self.training))


def augment(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Random rotation, scale, shear, shift and elastic warp of [n, 1, 28, 28] float32 images."""
    n = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * limit

    angle, shear = uniform(0.22), uniform(0.2)
    scale_x, scale_y = 1 + uniform(0.12), 1 + uniform(0.12)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, uniform(2.5 / 14)], 1),
        torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, uniform(2.5 / 14)], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    coarse = torch.randn(n, 2, 5, 5, generator=rng) * 0.045
    warp = functional.interpolate(coarse, (28, 28), mode="bicubic", align_corners=True)
    grid = grid + warp.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, align_corners=False)


def train(digits: Digits, epochs: int) -> DigitNet:
    """Train on [n, 28, 28] uint8 digits; returns the exponential average of the weights."""
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    images = torch.from_numpy(digits.images).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(digits.labels)
    model = DigitNet()
    average = copy.deepcopy(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    )
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    start = time.monotonic()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(images), generator=rng).split(BATCH):
            loss = functional.cross_entropy(
                model(augment(images[chosen], rng)), labels[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
            _update_average(average, model, 0.995)
        print(
            f"epoch {epoch + 1}/{epochs} loss {total / len(images):.4f} "
            f"{time.monotonic() - start:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return average.eval()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, keep: float) -> None:
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.mul_(keep).add_(value, alpha=1 - keep)
        else:
            mean.copy_(value)


class OnnxWriter:
    """Collects nodes and weights of the exported graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, name: str, inputs: list[str], **attributes) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def conv(self, name: str, x: str, unit: ConvUnit) -> str:
        """One convolution with the batch norm folded into weight and bias."""
        conv, norm = unit.conv, unit.norm
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = conv.weight.double() * scale[:, None, None, None]
        bias = norm.bias.double() - norm.running_mean.double() * scale
        inputs = [
            x,
            self.weight(f"{name}.weight", weight.detach().float().numpy()),
            self.weight(f"{name}.bias", bias.detach().float().numpy()),
        ]
        kernel, pad = conv.kernel_size[0], conv.padding[0]
        y = self.node(
            "Conv",
            name,
            inputs,
            kernel_shape=[kernel, kernel],
            strides=list(conv.stride),
            pads=[pad] * 4,
            group=conv.groups,
        )
        return self.node("Relu", f"{name}.relu", [y]) if unit.relu else y


def export(model: DigitNet) -> onnx.ModelProto:
    """The trained model as ONNX opset 17: ``image`` [1, 1, 28, 28] -> ``logits`` [1, 10]."""
    out = OnnxWriter()
    x = out.conv("stem", "image", model.stem)
    for i, block in enumerate(model.blocks):
        y = out.conv(f"block{i}.depthwise", x, block.depthwise)
        y = out.conv(f"block{i}.pointwise", y, block.pointwise)
        if block.residual:
            y = out.node("Relu", f"block{i}.relu", [out.node("Add", f"block{i}.add", [x, y])])
        x = y
    x = out.node("GlobalAveragePool", "pool", [out.conv("head", x, model.head)])
    x = out.node("Flatten", "flatten", [x], axis=1)
    weight = out.weight("classifier.weight", model.classifier.weight.detach().numpy())
    bias = out.weight("classifier.bias", model.classifier.bias.detach().numpy())
    out.node("Gemm", "logits", [x, weight, bias], transB=1)
    graph = helper.make_graph(
        out.nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        out.weights,
    )
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="edgecc")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def accuracy(proto: onnx.ModelProto, digits: Digits) -> float:
    """Share of digits that ONNX Runtime classifies as labelled."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = (digits.images.astype(np.float32) / 255)[:, None, None]
    guesses = [session.run(None, {"image": image})[0].argmax() for image in images]
    return float(np.mean(np.array(guesses) == digits.labels))


def choose(digits: Digits, count: int) -> np.ndarray:
    """Indices of ``count`` random digits, as evenly spread over the ten classes as can be."""
    rng = np.random.default_rng(SEED)
    shuffled = rng.permutation(len(digits.labels))
    rank = np.empty(len(shuffled), dtype=np.int64)
    for digit in range(10):
        members = shuffled[digits.labels[shuffled] == digit]
        rank[members] = np.arange(len(members))
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return rng.permutation(order[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="downloads go here")
    parser.add_argument("--root", type=Path, default=ROOT, help="write below this folder")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    train_digits, held_out = load_split(args.cache)
    proto = export(train(train_digits, args.epochs))
    data, tests = args.root / "compiler" / "data", args.root / "tests" / "data"
    data.mkdir(parents=True, exist_ok=True)
    tests.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, data / "digits.onnx")
    chosen = choose(train_digits, CALIBRATION_SAMPLES)
    images = (train_digits.images[chosen].astype(np.float32) / 255)[:, None]
    labels = train_digits.labels[chosen]
    np.savez_compressed(data / "digits_calibration.npz", image=images, label=labels)
    chosen = choose(held_out, TEST_SAMPLES)
    np.savez_compressed(
        tests / "digits_test.npz", image=held_out.images[chosen], label=held_out.labels[chosen]
    )
    print(f"size {proto.ByteSize()} bytes")
    print(f"accuracy on {len(train_digits.labels)} training digits {accuracy(proto, train_digits)}")
    print(f"accuracy on {len(held_out.labels)} held-out digits {accuracy(proto, held_out)}")


if __name__ == "__main__":
    main()
