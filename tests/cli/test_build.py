"""``build``: the summary, the options, and what happens to bad ones."""

import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compiler
from compiler.api import build
from compiler.errors import EdgeccError
from compiler.golden import make_golden
from compiler.program import TensorInfo
from compiler.shipped import DIGITS


def save(path, nodes, inputs, outputs, opset=17):
    def values(rows):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in rows]

    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def scale(tmp_path):
    """y = x * factor, with an open batch; factor is an input."""
    return save(
        tmp_path / "scale.onnx",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 5]), ("factor", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, ["batch", 5])],
    )


def test_the_default_build(edgecc, tmp_path):
    done = edgecc("build")
    assert done.returncode == 0, done.stderr
    assert "digit classifier that comes with edgecc" in done.stderr
    assert "digit classifier" not in done.stdout
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["package"] == "build/digits-host"
    assert rows["verification"].startswith("verified natively against ONNX Runtime")
    assert "conv2d" in rows["work"]
    assert {path.name for path in (tmp_path / "build/digits-host").iterdir()} == {
        "libdigits.so",
        "digits.h",
        "manifest.json",
        "golden.npz",
        "receipt.json",
    }
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["digits-host"]


def test_json(edgecc, tmp_path):
    done = edgecc("build", DIGITS, "-o", "out", "--json")
    report = json.loads(done.stdout)
    assert report["path"] == "out"
    assert report["library_bytes"] == (tmp_path / "out/libdigits.so").stat().st_size
    assert report["verification"]["status"] == "passed"
    assert sum(report["work"].values()) == pytest.approx(1, abs=0.01)


def test_exact_builds_have_no_winograd(tmp_path):
    weight = onnx.numpy_helper.from_array(np.ones((64, 64, 3, 3), "float32"), "w")
    path = save(
        tmp_path / "conv.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        [("x", TensorProto.FLOAT, [1, 64, 28, 28])],
        [("y", TensorProto.FLOAT, [1, 64, 28, 28])],
    )
    model = onnx.load(path)
    model.graph.initializer.append(weight)
    onnx.save(model, path)

    def templates(exact: bool) -> set[str]:
        result = build(path, "x86_64_v3", tmp_path / "out", exact=exact, verify=False)
        return set(result.receipt["summary"]["template"])

    assert "winograd" in templates(exact=False)
    assert "winograd" not in templates(exact=True)


def test_plain_progress_goes_to_stderr_in_lines(edgecc):
    done = edgecc("build", DIGITS, "-o", "out", "--no-verify")
    stages = [line.split("] ")[1].split(" (")[0] for line in done.stderr.splitlines()]
    assert stages == ["import", "optimize", "kernels", "objects", "link"]
    assert "\r" not in done.stderr
    assert "verification  not asked for" in done.stdout


def test_the_golden_input_of_the_shipped_model_is_a_calibration_sample(host_package):
    with (
        np.load(host_package / "golden.npz") as golden,
        np.load(DIGITS.with_name("digits_calibration.npz")) as samples,
    ):
        np.testing.assert_array_equal(golden["input_0"], samples["image"][:1])
        assert golden["output_0"].argmax() == samples["label"][0]


def test_shape_and_const(edgecc, scale, tmp_path):
    done = edgecc(
        "build", scale, "-o", "out", "--shape", "x=3x5", "--const", "factor=0.1", "-t", "host"
    )
    assert done.returncode == 0, done.stderr
    x = np.arange(15, dtype="float32").reshape(3, 5)
    np.testing.assert_allclose(compiler.load(tmp_path / "out")(x), x * np.float32(0.1), rtol=1e-6)


def test_a_project_file_names_the_model(edgecc, scale, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.edgecc]\nmodel = "scale.onnx"\n')
    done = edgecc("build", "--shape", "x=1x5")
    assert done.returncode == 0, done.stderr
    assert "[tool.edgecc] model of" in done.stderr
    assert (tmp_path / "build/scale-host/libscale.so").is_file()


def test_a_target_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "board.toml").write_text('base = "arm_cortex_a53"\n')
    result = build(DIGITS, "./board.toml", verify=False)
    assert str(result.path) == "build/digits-board"
    assert result.manifest["target"]["name"] == "board"
    assert result.verification is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["gone.onnx"], ["gone.onnx: no such file"]),
        ([DIGITS, "-t", "arm_cortex_a27"], ["arm_cortex_a27", "did you mean"]),
        ([DIGITS, "-t", "gone.toml"], ["gone.toml: no such file"]),
        ([DIGITS, "--shape", "image"], ["--shape image"]),
        ([DIGITS, "--shape", "imgae=1x1x28x28"], ["--shape imgae", "did you mean 'image'?"]),
        ([DIGITS, "--shape", "image=1x1x29x29"], ["--shape image", "1x1x29x29"]),
        ([DIGITS, "--const", "n=x"], ["--const n=x"]),
        ([DIGITS, "--quantize", "int7"], ["--quantize int7", "--quantize none"]),
        ([DIGITS, "-o", "file"], ["file", "not a folder"]),
        ([DIGITS, "-o", "file/out"], ["file/out", "not a folder"]),
        ([DIGITS, "-o", "full"], ["full", "holds no package"]),
    ],
)
def test_errors_leave_nothing_behind(edgecc, tmp_path, arguments, parts):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    done = edgecc("build", *arguments, "--no-verify")
    assert (done.returncode, done.stdout) == (1, "")
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_an_open_shape_says_which_option_closes_it(edgecc, scale):
    done = edgecc("build", scale)
    assert done.returncode == 1
    assert "--shape x=" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_without_permission(edgecc, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = edgecc("build", DIGITS, "-o", "locked/out")
    assert done.returncode == 1
    assert "no permission" in done.stderr


def test_an_unwritable_file_system(edgecc):
    done = edgecc("build", DIGITS, "-o", "/proc/edgecc/out", "--no-verify")
    assert done.returncode == 1
    assert "/proc/edgecc/out" in done.stderr
    assert "internal error" not in done.stderr


def test_a_wrong_library_is_not_shipped(tmp_path, monkeypatch):
    """A package that fails verification never replaces an earlier one."""
    out = tmp_path / "out"
    build(DIGITS, "host", out)
    before = (out / "manifest.json").read_bytes()

    def wrong(*arguments):
        golden = make_golden(*arguments)
        golden.outputs["logits"][0, 3] += 1
        return golden

    monkeypatch.setattr("compiler.golden.make_golden", wrong)
    with pytest.raises(EdgeccError, match=r"the built library is wrong .*'logits'"):
        build(DIGITS, "host", out)
    assert (out / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_strict_names_the_operators_without_a_template(monkeypatch, tmp_path):
    import schedules

    def nothing(func, target, choose):
        return func, {"template": "serial"}

    monkeypatch.setattr(schedules, "apply", nothing)
    with pytest.raises(EdgeccError, match=r"--strict: no schedule template .* conv2d") as caught:
        build(DIGITS, "host", tmp_path / "out", strict=True, verify=False)
    assert "--strict" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_golden_integers_stay_in_range(tmp_path):
    model = save(
        tmp_path / "gather.onnx",
        [
            helper.make_node("Gather", ["table", "index"], ["rows"]),
            helper.make_node("Log", ["rows"], ["y"]),
        ],
        [("table", TensorProto.FLOAT, [2, 3]), ("index", TensorProto.INT64, [4])],
        [("y", TensorProto.FLOAT, [4, 3])],
    )
    inputs = (TensorInfo("table", "float32", (2, 3)), TensorInfo("index", "int64", (4,)))
    golden = make_golden(model, inputs, (TensorInfo("y", "float32", (4, 3)),), {})
    assert golden.reference.startswith("ONNX Runtime ")
    np.testing.assert_allclose(
        golden.outputs["y"], np.log(golden.inputs["table"][golden.inputs["index"]]), rtol=1e-6
    )


def test_golden_without_onnx_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    info = TensorInfo("image", "float32", (1, 1, 28, 28))
    golden = make_golden(DIGITS, (info,), (TensorInfo("logits", "float32", (1, 10)),), {})
    assert golden.reference.startswith("onnx.reference ")
    monkeypatch.undo()
    again = make_golden(DIGITS, (info,), (TensorInfo("logits", "float32", (1, 10)),), {})
    assert again.reference.startswith("ONNX Runtime ")
    np.testing.assert_allclose(
        golden.outputs["logits"], again.outputs["logits"], rtol=1e-4, atol=1e-4
    )


def test_a_model_that_only_makes_nan_has_no_golden_data(tmp_path):
    model = save(
        tmp_path / "nan.onnx",
        [
            helper.make_node("Neg", ["x"], ["a"]),
            helper.make_node("Abs", ["a"], ["b"]),
            helper.make_node("Neg", ["b"], ["c"]),
            helper.make_node("Log", ["c"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [8])],
        [("y", TensorProto.FLOAT, [8])],
    )
    info = TensorInfo("x", "float32", (8,))
    with pytest.raises(EdgeccError, match=r"nan\.onnx.*NaN") as caught:
        make_golden(model, (info,), (TensorInfo("y", "float32", (8,)),), {})
    assert "--no-verify" in caught.value.hint
