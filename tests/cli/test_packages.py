"""The commands that take a package, and ``inspect`` of a model."""

import json
import re
import shutil

import numpy as np
import pytest

from compiler.cli.bench import read_governor
from compiler.cli.profile import peak_gflops
from compiler.shipped import DIGITS
from compiler.target import load_target

needs_emulator = pytest.mark.skipif(
    not shutil.which("qemu-riscv64"), reason="needs the Debian package qemu-user"
)


@pytest.fixture
def image(tmp_path):
    with np.load(DIGITS.with_name("digits_calibration.npz")) as samples:
        np.save(tmp_path / "image.npy", samples["image"][7:8])
        return samples["image"][7:8]


def reference(image):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(DIGITS))
    return session.run(None, {"image": image})[0]


def test_run_native(edgecc, host_package, image, tmp_path):
    done = edgecc("run", host_package, "--input", "image=image.npy", "-o", "out.npz")
    assert done.returncode == 0, done.stderr
    assert "logits  float32 1x10" in done.stdout
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["logits"], reference(image), rtol=1e-4, atol=1e-4)


@needs_emulator
def test_run_emulated(edgecc, foreign_package, image):
    done = edgecc("run", foreign_package, "--input", "image=image.npy", "--json")
    assert done.returncode == 0, done.stderr
    assert "running under qemu-" in done.stderr
    logits = np.array(json.loads(done.stdout)["logits"])
    np.testing.assert_allclose(logits, reference(image), rtol=1e-4, atol=1e-4)


def test_run_on_golden_inputs(edgecc, host_package):
    done = edgecc("run", host_package, "--json")
    assert "golden inputs" in done.stderr
    with np.load(host_package / "golden.npz") as golden:
        got = json.loads(done.stdout)["logits"]
        np.testing.assert_allclose(got, golden["output_0"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("array", "option", "parts"),
    [
        (np.zeros((1, 1, 28, 28)), "image=x.npy", ["'image'", "float64", "float32"]),
        (np.zeros((1, 28, 28), "float32"), "image=x.npy", ["'image'", "(1, 28, 28)"]),
        (np.zeros(1, "float32"), "picture=x.npy", ["'picture'", "image"]),
        (None, "image=x.npy", ["x.npy", "No such file"]),
        (None, "image", ["--input image", "NAME=FILE.npy"]),
    ],
)
def test_run_names_the_wrong_input(edgecc, host_package, tmp_path, array, option, parts):
    if array is not None:
        np.save(tmp_path / "x.npy", array)
    done = edgecc("run", host_package, "-i", option)
    assert (done.returncode, done.stdout) == (1, "")
    for part in parts:
        assert part in done.stderr


def test_run_to_a_folder_that_is_missing(edgecc, host_package):
    done = edgecc("run", host_package, "-o", "gone/out.npz")
    assert done.returncode == 1
    assert "--output gone/out.npz" in done.stderr


def test_bench(edgecc, host_package):
    done = edgecc("bench", host_package, "--seconds", "0.1", "--threads", "1", "--json")
    report = json.loads(done.stdout)
    assert 0 < report["min_ms"] <= report["median_ms"] <= report["p90_ms"]
    assert report["threads"] == 1
    assert report["warmup"] >= 1
    assert report["emulator"] is None
    text = edgecc("bench", host_package, "--seconds", "0.1").stdout
    for name in ("median", "minimum", "90th percentile", "runs", "threads", "governor"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE)


def test_the_governor_is_read(tmp_path):
    (tmp_path / "governor").write_text("schedutil\n")
    assert read_governor(tmp_path / "governor") == "schedutil"
    assert read_governor(tmp_path / "gone") is None


@needs_emulator
@pytest.mark.parametrize("command", ["bench", "profile"])
def test_foreign_packages_are_not_timed_unless_asked(edgecc, foreign_package, command):
    done = edgecc(command, foreign_package)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--emulate" in done.stderr
    done = edgecc(command, foreign_package, "--emulate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["emulator"].startswith("qemu-")
    assert "say nothing about the real" in done.stderr


def test_profile(edgecc, host_package):
    done = edgecc("profile", host_package, "--threads", "1", "--json")
    report = json.loads(done.stdout)
    receipt = json.loads((host_package / "receipt.json").read_text())
    labels = [row["label"] for row in receipt["operators"]]
    assert [row["label"] for row in report["operators"]] == labels
    assert sum(row["share"] for row in report["operators"]) == pytest.approx(1)
    clock = report["peak_gflops"] / load_target("host").flops_per_cycle()
    assert 0.3 < clock < 8  # GHz, whatever this machine runs at
    text = edgecc("profile", host_package).stdout.splitlines()
    assert text[0].split() == ["#", "OPERATOR", "TEMPLATE", "MS", "SHARE", "GFLOPS", "OF", "PEAK"]
    assert len(text) == len(labels) + 2
    assert "100.0 %" in text[-1]


def test_peak_counts_the_cores_of_the_target():
    manifest = {"flops_per_cycle": 8, "target": {"cores": 4}}
    assert peak_gflops(manifest, 2, 1.8) == pytest.approx(2 * 14.4)
    assert peak_gflops(manifest, 64, 1.8) == pytest.approx(4 * 14.4)
    assert peak_gflops({"target": {"cores": 4}}, 1, 1.8) is None
    assert peak_gflops(manifest, 1, 0.0) is None  # emulated


def test_verify(edgecc, host_package):
    done = edgecc("verify", host_package)
    assert done.returncode == 0
    assert "verified natively against ONNX Runtime" in done.stdout
    assert json.loads(edgecc("verify", host_package, "--json").stdout)["status"] == "passed"


@needs_emulator
def test_verify_emulated(edgecc, foreign_package):
    done = edgecc("verify", foreign_package, "--require")
    assert done.returncode == 0
    assert "verified under qemu-" in done.stdout


def test_a_skipped_verification_says_so(edgecc, foreign_package, tmp_path):
    """Without the emulator on PATH; python itself is called by its full path."""
    done = edgecc("verify", foreign_package, PATH=str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: ")
    assert "is not installed" in done.stdout
    assert "hint: apt-get install qemu-user" in done.stderr
    required = edgecc("verify", foreign_package, "--require", PATH=str(tmp_path))
    assert required.returncode == 1
    assert "error: " in required.stderr


def test_a_changed_library_fails(edgecc, host_package, tmp_path):
    package = tmp_path / "package"
    shutil.copytree(host_package, package)
    with np.load(package / "golden.npz") as data:
        arrays = dict(data)
    arrays["output_0"][0, 0] += 1
    np.savez(package / "golden.npz", **arrays)
    done = edgecc("verify", package)
    assert done.returncode == 1
    assert "golden.npz" in done.stderr


def test_wrong_results_fail(edgecc, host_package, tmp_path):
    """Golden outputs that differ, with a manifest that agrees with them."""
    import hashlib

    package = tmp_path / "package"
    shutil.copytree(host_package, package)
    with np.load(package / "golden.npz") as data:
        arrays = dict(data)
    arrays["output_0"][0, 0] += 1
    np.savez(package / "golden.npz", **arrays)
    manifest = json.loads((package / "manifest.json").read_text())
    digest = hashlib.sha256((package / "golden.npz").read_bytes()).hexdigest()
    manifest["files"]["golden.npz"]["sha256"] = digest
    (package / "manifest.json").write_text(json.dumps(manifest))
    done = edgecc("verify", package)
    assert done.returncode == 1
    assert "verification failed: output 'logits' is off by" in done.stderr


@pytest.mark.parametrize("command", ["run", "bench", "profile", "estimate", "verify", "inspect"])
def test_what_is_no_package(edgecc, tmp_path, command):
    (tmp_path / "empty").mkdir()
    done = edgecc(command, "empty")
    assert (done.returncode, done.stdout) == (1, "")
    assert "empty is not a package" in done.stderr


def test_inspect_a_model(edgecc):
    summary = json.loads(edgecc("inspect", DIGITS, "--json").stdout)
    import onnx

    graph = onnx.load(DIGITS).graph
    assert sum(summary["operators"].values()) == len(graph.node)
    assert summary["parameters"] == sum(int(np.prod(t.dims)) for t in graph.initializer)
    assert summary["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 1, 28, 28]}]
    text = edgecc("inspect").stdout
    assert re.search(r"^Conv +14$", text, re.MULTILINE)
    assert re.search(r"^input +image +float32 +1x1x28x28$", text, re.MULTILINE)


def test_inspect_and_build_agree_on_the_work(edgecc, host_package):
    model = json.loads(edgecc("inspect", DIGITS, "--json").stdout)
    package = json.loads(edgecc("inspect", host_package, "--json").stdout)
    # Packed channels may be padded up to whole vectors.
    assert model["macs"] == pytest.approx(package["receipt"]["macs"], rel=0.01)


def test_inspect_a_package(edgecc, host_package):
    text = edgecc("inspect", host_package).stdout
    assert "Memory plan" in text
    assert re.search(r"^t\d+ +\d+ +\d+ +\d+ +\d+", text, re.MULTILINE)
    assert re.search(r"^ +0 \|[a-zA-Z.]+$", text, re.MULTILINE)
    assert re.search(r"^ *0  \w+ +conv2d", text, re.MULTILINE)


def test_inspect_what_is_no_model(edgecc, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    done = edgecc("inspect", "text.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: text.onnx" in done.stderr
