"""Calibration data from files, folders, pictures and Python; errors that say what to do."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import EdgeccError
from compiler.program import TensorInfo
from compiler.quantize.calibrators import CALIBRATORS
from compiler.quantize.data import open_data
from compiler.quantize.images import Preprocessing

X = TensorInfo("x", "float32", (1, 2, 3))
Y = TensorInfo("y", "int64", (4,))


def numbers(count, shape=(2, 3), seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def samples(source, inputs=(X,), **more):
    data = open_data(source, inputs, **more)
    found = [{name: array.copy() for name, array in sample.items()} for sample in data]
    assert data.count == len(found)
    return found


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 1, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, shape, order, save):
    values = numbers(5).reshape(shape)
    save(tmp_path / "c.npz", x=np.asarray(values, order=order), label=np.arange(5))
    found = samples(tmp_path / "c.npz")
    assert [s["x"].shape for s in found] == [(1, 2, 3)] * 5
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in found]), values.reshape(5, 2, 3))


def test_npz_of_batches_and_several_inputs(tmp_path):
    inputs = (TensorInfo("x", "float32", (2, 3)), Y)
    np.savez(tmp_path / "c.npz", x=numbers(6, (3,)), y=np.arange(12).reshape(3, 4))
    found = samples(tmp_path / "c.npz", inputs)
    assert len(found) == 3
    np.testing.assert_array_equal(found[1]["y"], [4, 5, 6, 7])
    np.testing.assert_array_equal(found[2]["x"], numbers(6, (3,))[4:])


def test_folders(tmp_path):
    for i, value in enumerate(numbers(3)):
        np.save(tmp_path / f"{i}.npy", value[None])
    expected = list(numbers(3)[:, None])
    for found, wanted in zip(samples(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(found["x"], wanted)
    (tmp_path / "two/x").mkdir(parents=True)
    (tmp_path / "two/y").mkdir()
    for i in range(3):
        np.save(tmp_path / f"two/x/{i}.npy", expected[i])
        np.save(tmp_path / f"two/y/{i}.npy", np.full(4, i))
    found = samples(tmp_path / "two", (X, Y))
    assert [int(s["y"][0]) for s in found] == [0, 1, 2]


@pytest.mark.parametrize(
    "source",
    [
        lambda: iter(numbers(3)[:, None]),
        [{"x": value[None]} for value in numbers(3)],
        lambda: ({"x": value.astype("float64")} for value in numbers(3)),
    ],
)
def test_python_objects_can_be_walked_again(source):
    data = open_data(source, (X,))
    first = [s["x"].copy() for s in data]
    digest = data.sha256
    assert len(first) == 3
    np.testing.assert_array_equal(first, [s["x"] for s in data])
    assert data.sha256 == digest
    assert digest != ""


def save(tmp_path, **arrays):
    np.savez(tmp_path / "c.npz", **arrays)
    return tmp_path / "c.npz"


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda p: p / "gone.npz", "gone.npz: no such file", ""),
        (lambda p: save(p, z=np.zeros(3)), "no array for input 'x'", "'z'"),
        (lambda p: save(p, x=np.zeros((5, 2, 4), "f4")), "5x2x4", "1x2x3"),
        (lambda p: save(p, x=np.full((5, 2, 3), np.nan, "f4")), "sample 0: 'x' holds NaN", "leave"),
        (lambda p: save(p, x=np.zeros((5, 2, 3), "u1")), "'x' is uint8", "preprocessing"),
        (lambda p: save(p, x=np.zeros((0, 2, 3), "f4")), "no calibration samples", "npz"),
        (lambda p: iter([1]), "only once", "function"),
        (lambda p: 3, "can't be a int", "path"),
        (lambda p: [], "no calibration samples", "npz"),
        (lambda p: [np.zeros((3, 3), "f4")], "shape 3x3", "preprocessing"),
        (lambda p: [{"z": 1}], "no array for input 'x'", "'z'"),
    ],
)
def test_errors(tmp_path, make, message, hint):
    with pytest.raises(EdgeccError) as error:
        samples(make(tmp_path))
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_damaged_npz(tmp_path):
    (tmp_path / "c.npz").write_bytes(b"nothing")
    with pytest.raises(EdgeccError, match=r"c.npz: not an .npz file"):
        samples(tmp_path / "c.npz")
    whole = save(tmp_path, x=numbers(50)).read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[:500] + whole[700:])
    with pytest.raises(EdgeccError):
        samples(tmp_path / "c.npz")


def pictures(folder, count=2):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 12, 3), dtype="uint8")
    for i, picture in enumerate(pixels):
        image.fromarray(picture).save(folder / f"{i}.png")
    return pixels


def test_pictures(tmp_path):
    pixels = pictures(tmp_path)
    info = TensorInfo("image", "float32", (1, 3, 8, 8))
    (tmp_path / "preprocessing.toml").write_text(
        'resize = 8\nmean = [0.5, 0.25, 0.0]\nstd = 2\ncolor = "BGR"\n'
    )
    data = open_data(tmp_path, (info,))
    found = [s["image"].copy() for s in data]
    wanted = pixels[:, :, 2:10, ::-1] / 255  # the shorter side is 8 already; the middle is cut out
    wanted = (wanted - np.array([0.5, 0.25, 0.0])) / 2
    np.testing.assert_allclose(np.concatenate(found), wanted.transpose(0, 3, 1, 2), atol=1e-6)
    assert data.preprocessing is not None
    assert data.preprocessing.as_dict()["color"] == "BGR"
    last = TensorInfo("image", "float32", (2, 8, 12, 1))
    gray = Preprocessing(layout="NHWC", color="gray", scale=255)
    (sample, _) = samples(tmp_path, (last,), preprocessing=gray)
    luma = pixels[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(sample["image"][1, :, :, 0], luma, atol=1.01)


def test_pictures_need_a_description(tmp_path):
    pictures(tmp_path)
    info = TensorInfo("image", "float32", (1, 3, 8, 8))
    with pytest.raises(EdgeccError, match=r"without preprocessing.toml"):
        samples(tmp_path, (info,))
    for text, part in (("mode = 1", "mode"), ("std = 0", "std"), ('layout = "CHW"', "layout")):
        (tmp_path / "preprocessing.toml").write_text(text)
        with pytest.raises(EdgeccError) as error:
            samples(tmp_path, (info,))
        assert part in error.value.message + error.value.hint


SCRIPT = r"""
import re, sys
from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.quantize.calibrators import CALIBRATORS
from compiler.quantize.data import open_data
from compiler.quantize.ptq import quantize
from compiler.quantize.recipe import Recipe, Rule
from compiler.target import load_target

target, model = load_target("host"), import_model(sys.argv[1])
rules = [Rule(f"node_{name}", calibrator=name) for name in CALIBRATORS]
data = open_data(sys.argv[2], model.inputs)
found = quantize(simplify(model.module, target), target, data, Recipe(tuple(rules)))
print(data.count, sorted(stored.calibrator for stored in found.plan.stored.values()))
# Not ru_maxrss, which begins with what the process that started this one had.
status = open("/proc/self/status").read()
print(int(re.search(r"VmHWM:\s*(\d+)", status)[1]) // 1024)
"""


def test_ten_thousand_samples_stream(tmp_path):
    """320 MB of numbers go through a model and every calibrator."""
    nodes, weights, x = [], [], "x"
    for name in [*CALIBRATORS, "last"]:
        weights.append(numpy_helper.from_array(np.ones((3, 3, 1, 1), "float32"), f"w_{name}"))
        nodes.append(helper.make_node("Conv", [x, f"w_{name}"], [f"y_{name}"], f"node_{name}"))
        x = f"y_{name}"
    shape = [1, 3, 52, 52]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MaxPool", [x], ["y"], "pool", kernel_shape=[52, 52])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m")
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10_000, *shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        block = np.random.default_rng(0).standard_normal((100, *shape[1:])).astype("float32")
        for _ in range(100):
            file.write(block.tobytes())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "m"), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, megabytes = done.stdout.strip().split("\n")
    assert found.startswith("10000 ")
    for name in CALIBRATORS:
        assert name in found
    assert int(megabytes) < 500
