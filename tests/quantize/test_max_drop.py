"""Bounds of what quantisation may lose, and the operators that stay in float32 for them."""

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from typer.testing import CliRunner

import compiler
from compiler.cli.app import app
from compiler.codegen import KernelCache
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.program import TensorInfo
from compiler.quantize.bound import Bound, Judge
from compiler.quantize.data import open_data
from compiler.quantize.labelled import open_validation, split
from compiler.quantize.ptq import quantize
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.scores import label_shape
from compiler.quantize.search import MAX_EVALUATIONS, _Search, quantize_within
from compiler.target import load_target
from tests.quantize.models import Builder, run_onnx

INPUT = (TensorInfo("x", "float32", (1, 4, 8, 8)),)


@dataclass(frozen=True)
class Spoilt:
    """A model of four convolutions that classifies pixels, and the data it is judged by."""

    path: Path
    module: tvm.IRModule
    outputs: tuple[TensorInfo, ...]
    cache: KernelCache
    plain: Path
    labelled: Path

    def within(self, bound: Bound, validation: Path | None = None):
        labels = label_shape(self.outputs[0]) if bound.kind == "accuracy" else None
        if validation is None:
            data, checked = split(self.plain, INPUT, labels)
        else:
            data = open_data(self.plain, INPUT)
            checked = open_validation(validation, INPUT, labels)
        return quantize_within(
            self.module,
            load_target("host"),
            data,
            DEFAULT,
            bound,
            checked,
            self.outputs,
            cache=self.cache,
        )


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """One channel of c1 is 3,000 times larger than the others, and c2 takes the factor back.

    In eight bits nothing is left of the others, which c2 reads.
    """
    folder = tmp_path_factory.mktemp("spoilt")
    b = Builder()
    x = b.node("Relu", b.conv("x", 4, 8, name="c0"), name="r0")
    x = b.node("Relu", b.conv(x, 8, 8, name="c1"), name="r1")
    x = b.node("Relu", b.conv(x, 8, 8, name="c2"), name="r2")
    b.node("Identity", b.conv(x, 8, 6, name="c3"), name="y")
    for index, axis in ((2, 0), (3, 0), (4, 1)):
        values = onnx.numpy_helper.to_array(b.weights[index]).copy()
        values[(slice(None),) * axis + (0,)] *= 3000.0 if index < 4 else 1 / 3000
        b.weights[index].CopyFrom(onnx.numpy_helper.from_array(values, f"w{index}"))
    path = b.save(folder / "m.onnx", {"x": INPUT[0].shape}, {"y": (1, 6, 8, 8)})
    samples = np.random.default_rng(0).standard_normal((40, *INPUT[0].shape)).astype("float32")
    labels = [run_onnx(onnx.load(path), {"x": x})[0][0].argmax(axis=0) for x in samples]
    np.savez(folder / "plain.npz", x=samples)
    np.savez(folder / "labelled.npz", x=samples, labels=np.array(labels, "uint8"))
    model = import_model(path)
    module = simplify(model.module, load_target("host"))
    files = folder / "plain.npz", folder / "labelled.npz"
    return Spoilt(path, module, model.outputs, KernelCache(), *files)


def test_command_names_the_spoilt_layer_and_its_recipe_builds_the_same(spoilt, tmp_path):
    fixed = ["--no-verify", "--untuned", "--quantize", "int8"]
    samples = ["--calibration", str(spoilt.plain)]
    bounded = ["--max-drop", "sqnr:20", "--recipe", "auto", "--validation", samples[1]]
    arguments = ["build", str(spoilt.path), "-o", str(tmp_path / "a"), *fixed, *samples, *bounded]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "in float32: 1 of 4 layers: c2" in done.stderr
    (tmp_path / "r.toml").write_text(done.stdout)
    recipe = Recipe.read(tmp_path / "r.toml")
    assert recipe.rules == (*DEFAULT.rules, Rule("c2", precision="float32"))
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())["quantization"]
    trade = json.loads((tmp_path / "a" / "receipt.json").read_text())["max_drop"]
    assert trade == manifest["max_drop"]
    assert trade["held_out"]
    assert manifest["operators"] == {"int8": 3, "float32": 1}
    again = compiler.build(
        spoilt.path,
        output=tmp_path / "b",
        quantize="int8",
        calibration=spoilt.plain,
        recipe=recipe,
        verify=False,
        tuning_logs=(),
    )
    (library,) = (tmp_path / "a").glob("*.so")
    assert library.read_bytes() == (again.path / library.name).read_bytes()


def test_every_form_of_bound_finds_it(spoilt):
    data = np.load(spoilt.labelled)

    def accuracy(run):
        found = [run({"x": x})["y"].argmax(axis=1)[0] for x in data["x"]]
        return float(np.mean(found == data["labels"]))

    for bound, validation in (
        (Bound.parse("sqnr:20"), None),
        (Bound.parse("agreement:3%"), None),
        (Bound.parse("accuracy:3%"), spoilt.labelled),
        (Bound.parse("metric:0.03", accuracy), None),
    ):
        found, recipe, trade = spoilt.within(bound, validation)
        assert trade.layers == ("c2",), trade
        assert recipe.rules == (*DEFAULT.rules, Rule("c2", precision="float32"))
        assert found.summary() == {"int8": 3, "float32": 1}
        assert trade.weights["int8"] < trade.weights["result"] < trade.weights["float32"]
        assert trade.held_out == (bound.kind != "metric")
        assert trade.complete
    # the last two measure the same
    assert trade.float32 == "1"
    assert float(trade.int8) < 0.97 <= float(trade.result)


def test_a_bound_that_holds_changes_nothing(spoilt):
    found, recipe, trade = spoilt.within(Bound.parse("sqnr:1"))
    assert recipe == DEFAULT
    assert trade.layers == ()
    assert trade.evaluations == 1
    assert trade.int8 == trade.result
    assert trade.measured_on.startswith("10 samples, every 4th sample of ")
    kept, _ = split(spoilt.plain, INPUT, None)
    alone = quantize(spoilt.module, load_target("host"), kept, DEFAULT)
    for (_, one), (_, other) in zip(
        found.activations.items(), alone.activations.items(), strict=True
    ):
        assert one.same_as(other)


def test_what_even_float32_does_not_hold(spoilt):
    numbers = count(0, -1)
    with pytest.raises(EdgeccError, match=r"metric:0\.5: not held with all of") as error:
        spoilt.within(Bound.parse("metric:0.5", lambda run: next(numbers)))
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("psnr:20", "'psnr' is not known"),
        ("sqnr", "'' is no such number"),
        ("sqnr:20%", "'20%' is no such number"),
        ("agreement:20dB", "'20dB' is no such number"),
        ("accuracy:nan", "'nan' is no such number"),
        ("accuracy:-1%", "out of range"),
        ("agreement:200%", "out of range"),
        ("metric:1", "Python function"),
    ],
)
def test_wrong_bounds(spoilt, text, part):
    with pytest.raises(EdgeccError) as error:
        build(spoilt, max_drop=text)
    assert part in error.value.message
    assert error.value.hint


def build(spoilt, **options):
    return compiler.build(spoilt.path, quantize="int8", calibration=spoilt.plain, **options)


def test_options_that_want_others(spoilt):
    with pytest.raises(EdgeccError, match="validation data check a bound"):
        build(spoilt, validation=spoilt.plain)
    with pytest.raises(EdgeccError, match="--max-drop is for quantised models"):
        compiler.build(spoilt.path, max_drop="sqnr:20")
    with pytest.raises(EdgeccError, match=r"no labels in .*plain\.npz"):
        build(spoilt, max_drop="accuracy:1%")
    with pytest.raises(EdgeccError, match=r"--validation nowhere\.npz: no such file"):
        build(spoilt, max_drop="sqnr:20", validation="nowhere.npz")


def test_numbers_of_bounds():
    assert Bound.parse("sqnr:20 dB") == Bound.parse("sqnr:20") == Bound("sqnr", 20.0)
    assert Bound.parse("agreement:1%") == Bound.parse("agreement:0.01")
    assert str(Bound.parse("accuracy:0.1%")) == "accuracy:0.1%"


def test_labels_from_folders_pairs_and_a_quarter_of_the_data(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            image.new("L", (8, 8), 10 * number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "preprocessing.toml").write_text('color = "gray"')
    gray = (TensorInfo("x", "float32", (1, 1, 8, 8)),)
    found = [int(label[0]) for _, label in open_validation(tmp_path, gray, (1,))]
    assert found == [0, 0, 1, 1]
    (tmp_path / "cat").rename(tmp_path / "7")
    (tmp_path / "dog").rename(tmp_path / "03")
    assert {int(label[0]) for _, label in open_validation(tmp_path, gray, (1,))} == {3, 7}

    pairs = [(np.full(INPUT[0].shape, i, "float32"), i) for i in range(40)]
    calibration, validation = split(pairs, INPUT, (1,))
    held = [int(label[0]) for _, label in validation]
    assert held == list(range(3, 40, 4))
    used = [int(sample["x"].flat[0]) for sample in calibration]
    assert sorted(held + used) == list(range(40))
    calibration, validation = split(pairs[:31], INPUT, (1,))
    assert len(list(calibration)) == len(list(validation)) == 31
    assert not validation.held_out


@pytest.mark.parametrize("needed", [{"f"}, {"b", "k"}, {"a", "e", "l"}, set("abcdefghijkl")])
def test_the_search_ends_with_what_is_needed(needed):
    """Over a model of the search: the bound holds where all that is needed is in float32."""
    search = _Search.__new__(_Search)
    search.ranked, search.measured, search.complete, search.started = [*"abcdefghijkl"], {}, True, 0
    search.in_words = False
    search._is_spent = lambda: len(search.measured) >= MAX_EVALUATIONS

    def holds(names):
        search.measured[frozenset(names), frozenset()] = 0.0
        return needed <= set(names)

    search._holds = holds
    assert set(search._give_back(search._shortest())) == needed
    assert len(search.measured) < 30
    search._is_spent = lambda: True  # what was measured before may still be taken
    assert set(search._give_back([*"abcdefghijkl"])) >= needed
    search.measured.clear()
    assert search._give_back([*"abcdefghijkl"]) == [*"abcdefghijkl"]
    assert not search.complete


def test_labels_of_pictures_and_sequences():
    validation = open_validation(
        [{"x": np.zeros(INPUT[0].shape, "float32"), "label": np.array([[0, 1]])}], INPUT, (1, 2)
    )
    scores = np.array([[[0.1, 0.9], [0.2, 0.8]]])
    judge = Judge(Bound("accuracy", 0.1), validation, lambda sample: {"y": scores})
    assert judge.value_of_exact == 0.5
    segmented = scores.transpose(0, 2, 1)[:, :, None]  # [1, 2 classes, 1, 2]
    assert judge.measure(lambda sample: {"y": segmented}) == 0.5
    assert judge.measure(lambda sample: {"y": np.array([[0, 1]])}) == 1.0
