"""The benchmark networks: published sizes, and outputs that are finite and follow the input."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from compiler.codegen.graph import read_graph
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from scripts.modelzoo import samples

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench" / "models.py"

# Published parameter counts less one for each batch-norm channel (its scale is folded away).
PARAMETERS = {
    "mobilenet_v1": 4_231_976 - 10_944,
    "mobilenet_v2": 3_504_872 - 17_056,
    "mobilenet_v3_small": 2_542_856 - 6_056,
    "resnet50": 25_557_032 - 26_560,
    "squeezenet": 1_235_496,
    # all-MiniLM-L6-v2 without its pooler, which the encoder's output does not need.
    "minilm": 22_713_216 - 384 * 385,
    # Layer by layer from the architecture in the paper, norms folded.
    "ds_cnn": (40 * 64 + 64) + 4 * (9 * 64 + 64 + 64 * 64 + 64) + (64 * 12 + 12),
    "autoencoder": 640 * 128 + 6 * 128 * 128 + 2 * 128 * 8 + 128 * 640 + 8 * 128 + 8 + 640,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")

    def write(name: str) -> Path:
        path = folder / f"{name}.onnx"
        command = [sys.executable, str(SCRIPT), name, "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return write


def _feeds(session: onnxruntime.InferenceSession, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = session.get_inputs()[0]
    if first.name == "input_ids":
        return samples.sentence(rng)
    if first.name == "image":
        return samples.picture(rng, "image")
    return {first.name: rng.standard_normal(first.shape).astype(np.float32)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_network(name, written):
    path = written(name)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    weights = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    # Scalars are bounds and factors of activations, not parameters.
    assert sum(math.prod(w.dims) for w in weights if w.dims) == PARAMETERS[name]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    one, other = (session.run(None, _feeds(session, seed))[0] for seed in (0, 1))
    assert np.isfinite(one).all()
    assert one.std() > 0.01
    assert np.abs(one - other).max() > 0.05 * one.std()


def test_same_bytes_each_time(written):
    assert written("ds_cnn").read_bytes() == written("ds_cnn").read_bytes()


def test_unknown_name_lists_the_known(tmp_path):
    command = [sys.executable, str(SCRIPT), "resnet51", "-o", str(tmp_path / "x.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "resnet50" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72", "riscv_spacemit_x60"])
@pytest.mark.parametrize("name", [n for n in PARAMETERS if n != "minilm"])
def test_no_kernel_only_changes_the_layout(written, name, target):
    """One layout serves a whole network: nothing is packed or unpacked at run time."""
    module = optimize(import_model(written(name)).module, load_target(target))
    functions = {call.function for call in read_graph(module).calls}
    assert not [f for f in functions if any(w in f for w in ("pack", "transpose", "transform"))]
