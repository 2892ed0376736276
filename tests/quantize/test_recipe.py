"""Recipes: rules, their order, and their TOML form."""

import pytest

from compiler.errors import EdgeccError
from compiler.quantize.recipe import DEFAULT, Choice, Recipe, Rule


def test_the_last_match_wins_entry_by_entry():
    recipe = Recipe(
        (
            Rule("*", "int8", "mse", "per_channel"),
            Rule("conv2d", granularity="per_tensor"),
            Rule("/stem/*", "float32"),
            Rule("/stem/conv", "int8"),
        )
    )
    assert recipe.choice("conv2d", ["stem_conv"]) == Choice("int8", "mse", "per_tensor")
    assert recipe.choice("conv2d", ["stem_other"]).precision == "float32"
    assert recipe.choice("matmul", ["conv2d_1", "x"]) == Choice("int8", "mse", "per_channel")


def test_toml_round_trip(tmp_path):
    recipe = Recipe((*DEFAULT.rules, Rule('a"b\\*', "float32"), Rule("x", calibrator="entropy")))
    (tmp_path / "r.toml").write_text(recipe.toml([("conv2d", "stem")]))
    assert Recipe.read(tmp_path / "r.toml") == recipe
    assert "stem" in (tmp_path / "r.toml").read_text()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[[rule]]\nmatch = 3", "match must be a text"),
        ("[[rule]]\nprecision = 'int8'", "no entry 'match'"),
        ("[[rule]]\nmatch = '*'\nprecision = 'int4'", "int4"),
        ("[[rule]]\nmatch = '*'\ncalibrator = 'best'", "best"),
        ("[[rule]]\nmatch = '*'\ngranularity = 'fine'", "fine"),
        ("[[rule]]\nmatch = '*'\nfunctions = 'bytes'", "float, table"),
        ("[[rule]]\nmatch = '*'\nname = 'a'", "unknown entry 'name'"),
        ("rules = 3", "unknown entry 'rules'"),
        ("rule = 3", "tables"),
        ("rule = [", "r.toml"),
    ],
)
def test_errors_name_what_is_wrong(tmp_path, text, part):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(EdgeccError) as error:
        Recipe.read(tmp_path / "r.toml")
    assert part in f"{error.value.message} {error.value.hint}"
