"""The diagnosis of a quantised model names the layer that was made bad."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from compiler.api import diagnose
from compiler.cli.app import app
from compiler.errors import EdgeccError
from tests.quantize.models import Builder


@pytest.fixture
def spoilt(tmp_path):
    """Four convolutions; one channel of the second is 3,000 times larger than the others.

    Nothing of them is left in eight bits; the factor is taken back behind.
    """
    b = Builder()
    x = b.node("Relu", b.conv("x", 4, 8, name="c0"), name="r0")
    x = b.node("Relu", b.conv(x, 8, 8, name="c1"), name="r1")
    x = b.node("Relu", b.conv(x, 8, 8, name="c2"), name="r2")
    b.node("Identity", b.conv(x, 8, 2, name="c3"), name="y")
    for index, axis in ((2, 0), (3, 0), (4, 1)):
        values = onnx.numpy_helper.to_array(b.weights[index]).copy()
        factor = 3000.0 if index < 4 else 1 / 3000
        values[(slice(None),) * axis + (0,)] *= factor
        b.weights[index].CopyFrom(onnx.numpy_helper.from_array(values, f"w{index}"))
    shape = (1, 4, 8, 8)
    path = b.save(tmp_path / "m.onnx", {"x": shape}, {"y": (1, 2, 8, 8)})
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", x=rng.standard_normal((6, *shape)).astype("float32"))
    return path, tmp_path / "c.npz"


def test_the_spoilt_layer_is_found(spoilt):
    path, data = spoilt
    found = diagnose(path, calibration=data)
    # c1's own result is fine as a whole, its large channel drowns the others for c2
    assert found.first_bad is not None
    assert found.first_bad.name == "c2"
    assert found.worst()[0].name == "c2"
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert found.outputs_db["y"] < 20
    (good, *_) = found.layers
    assert good.sqnr_db > 30
    assert good.cosine > 0.999


def test_command(spoilt, tmp_path, monkeypatch):
    path, data = spoilt
    monkeypatch.chdir(tmp_path)
    arguments = ["debug", str(path), "--quantize", "int8", "--calibration", str(data)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["LAYER", "OPERATOR", "SQNR", "COSINE", "SHARE"]
    assert lines[1].split()[:2] == ["c2", "conv2d"]
    assert "the first layer below 20 dB is c2 (conv2d)" in done.stdout
    assert (tmp_path / "m-int8.png").read_bytes()[:4] == b"\x89PNG"
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert answer["first_bad"] == "c2"


def test_nothing_to_debug(spoilt):
    with pytest.raises(EdgeccError, match="none"):
        diagnose(spoilt[0], quantize="none")
