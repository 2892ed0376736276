"""MODEL's default, --shape, --const and the chart: the small parts of the command line."""

import numpy as np
import pytest

from compiler.cli import chart, console
from compiler.cli.model import default_model, parse_consts, parse_shapes
from compiler.errors import EdgeccError
from compiler.shipped import DIGITS


def test_shapes():
    assert parse_shapes(["x=1x3x224x224", "a=b=7", "s=1,2"]) == {
        "x": (1, 3, 224, 224),
        "a=b": (7,),
        "s": (1, 2),
    }


@pytest.mark.parametrize(
    "option", ["x", "=1", "x=", "x=1x", "x=axb", "x=-1x3", "x=1.5", "x=1x" + "9" * 30, "x=1xx2"]
)
def test_bad_shapes_name_the_option(option):
    with pytest.raises(EdgeccError, match="--shape") as caught:
        parse_shapes([option])
    assert "image=1x3x224x224" in caught.value.hint


def test_a_shape_given_twice():
    with pytest.raises(EdgeccError, match="'x' is given twice"):
        parse_shapes(["x=1", "x=2"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", np.array(3, "int64")),
        ("-3", np.array(-3, "int64")),
        ("0.5", np.array(0.5)),
        ("1e-3", np.array(1e-3)),
        ("inf", np.array(np.inf)),
        ("true", np.array(True)),
        ("1,2,3", np.array([1, 2, 3])),
        ("[1, 2]", np.array([1, 2])),
        ("3,", np.array([3])),
        ("[3]", np.array([3])),
        ("1,2.5", np.array([1.0, 2.5])),
        ("true,false", np.array([True, False])),
    ],
)
def test_consts(value, expected):
    (got,) = parse_consts([f"x={value}"]).values()
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


def test_const_from_a_file(tmp_path):
    array = np.arange(6, dtype="float16").reshape(2, 3)
    np.save(tmp_path / "c.npy", array)
    got = parse_consts([f"x={tmp_path / 'c.npy'}"])["x"]
    assert got.dtype == "float16"
    np.testing.assert_array_equal(got, array)


def test_integers_beyond_64_bits_are_floats():
    assert parse_consts(["x=99999999999999999999"])["x"] == np.float64(1e20)


@pytest.mark.parametrize("option", ["x=", "x=one", "x=1;2", "x=1,,2", "x", "=3"])
def test_bad_consts_name_the_option(option):
    with pytest.raises(EdgeccError, match="--const"):
        parse_consts([option])


def test_const_files_that_are_none(tmp_path):
    with pytest.raises(EdgeccError, match=r"gone.npy: No such file"):
        parse_consts([f"x={tmp_path}/gone.npy"])
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(EdgeccError, match=r"text.npy: not a .npy file"):
        parse_consts([f"x={tmp_path}/text.npy"])
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(EdgeccError, match=r"pickle.npy: not a .npy file"):
        parse_consts([f"x={tmp_path}/pickle.npy"])


def test_the_shipped_model_is_the_default(tmp_path):
    model, why = default_model(tmp_path)
    assert model == DIGITS
    assert DIGITS.is_file()
    assert "digit classifier" in why


def test_the_default_of_a_project(tmp_path):
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.edgecc]\nmodel = "nets/a.onnx"\n')
    model, why = default_model(tmp_path / "src/deep")
    assert model == tmp_path / "nets/a.onnx"
    assert str(tmp_path / "pyproject.toml") in why


def test_a_nearer_project_without_an_entry_wins(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.edgecc]\nmodel = "a.onnx"\n')
    (tmp_path / "inner/pyproject.toml").write_text("[project]\n")
    assert default_model(tmp_path / "inner")[0] == DIGITS


@pytest.mark.parametrize("text", ["[tool.edgecc]\nmodel = 3", '[tool.edgecc]\nmodel = ""', "[x"])
def test_a_broken_project_file_is_named(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(EdgeccError, match=r"pyproject\.toml"):
        default_model(tmp_path)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (18637, "18.2 KiB"), (3 << 20, "3 MiB"),
     (200 << 20, "200 MiB"), (5 << 40, "5120 GiB")],
)  # fmt: skip
def test_sizes(nbytes, text):
    assert console.size(nbytes) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (1000, "1 k"), (4690000, "4.69 M"), (25 * 10**8, "2.5 G")]
)
def test_counts(value, text):
    assert console.count(value) == text


def test_the_table_aligns(capsys):
    console.table(("A", "N"), [("x", "1"), ("long", "100")], right=(1,))
    assert capsys.readouterr().out == "A       N\nx       1\nlong  100\n"


def test_the_memory_chart():
    def block(offset, nbytes, first, last):
        return {"offset": offset, "nbytes": nbytes, "first": first, "last": last}

    blocks = [block(0, 50, 0, 1), block(50, 50, 1, 2), block(0, 25, 2, 3)]
    assert chart.memory_chart(blocks, 4, 100, width=4, height=4) == [
        "    100 B |.bb.",
        "          |.bb.",
        "          |aa..",
        "        0 |aacc",
        "          +----",
        "           0  3  call",
    ]


def test_the_memory_chart_of_one_call():
    row = {"offset": 0, "nbytes": 64, "first": 0, "last": 0}
    assert chart.memory_chart([row], 1, 64, height=1)[0] == "     64 B |aaaa"
