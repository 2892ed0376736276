"""What shall be quantised how: rules over operators, as frozen data and as TOML.

The last rule that matches an operator and says something of a matter decides it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import EdgeccError
from compiler.quantize.calibrators import make_calibrator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("auto", "int8", "float16", "bfloat16", "float32")
GRANULARITIES = ("per_channel", "per_tensor")
WEIGHTS = ("float32", "int8", "int4")
GROUPS = (32, 64, 128)
ACTIVATIONS = ("auto", "static", "dynamic", "int16")
FUNCTIONS = ("float", "table")


@dataclass(frozen=True)
class Choice:
    """What the rules say of one operator.

    Args:
        precision: "int8", "float16", "bfloat16", "float32", or "auto" for int8 where that is not
            slower than float32 on the target.
        calibrator: of the tensor that it hands over (see ``calibrators``).
        granularity: of its weights, "per_channel" or "per_tensor".
        weights: as what the constant matrix (or table of rows) of an operator that computes floats
            is stored: "float32", "int8" or "int4".
        group: rows of that matrix that share a scale in each column; 0: all in int8, 32 in int4.
        activations: the range of what a product of matrices multiplies by its weights: "static",
            from calibration, or "dynamic", of each row when it is computed; "auto" is dynamic
            where a sample has several rows. "int16": it, or any other operator, reads calibrated
            16 bits instead of 8.
        functions: how what follows a convolution, product or sum element by element is computed
            where it is dear (``functions``): "float", of the sums themselves, or "table", looked
            up by what 8 bits hold of them.
    """

    precision: str = "int8"
    calibrator: str = "mse"
    granularity: str = "per_channel"
    weights: str = "float32"
    group: int = 0
    activations: str = "auto"
    functions: str = "float"


@dataclass(frozen=True)
class Rule:
    """Args:
    match: pattern (``*``, ``?``, ``[abc]``) over operator types ("conv2d", "matmul", "add",
        "product" for a matrix product of two computed operands, ...) and ONNX node names.
    precision, calibrator, granularity, weights, group, activations, functions: as in ``Choice``;
        None: leave it to the rules before.
    """

    match: str
    precision: str | None = None
    calibrator: str | None = None
    granularity: str | None = None
    weights: str | None = None
    group: int | None = None
    activations: str | None = None
    functions: str | None = None

    def matches(self, operator: str, names: Sequence[str]) -> bool:
        """Whether it is about an operator of a type, made of nodes of these names."""
        if fnmatch.fnmatchcase(operator, self.match):
            return True
        pattern = _plain_name(self.match)
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _plain_name(pattern: str) -> str:
    """A pattern over ONNX names as one over the names of Relax: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9*?\[\]]", "_", pattern).strip("_")


@dataclass(frozen=True)
class Recipe:
    """How a model is quantised.

    Args:
        bias_correction: see ``bias_correction``.
        equalization: see ``equalize``.
        adaround: see ``adaround``.
    """

    rules: tuple[Rule, ...] = ()
    bias_correction: bool = True
    equalization: bool = False
    adaround: bool = False

    def choice(self, operator: str, names: Sequence[str]) -> Choice:
        """What applies to an operator."""
        found = Choice()
        for rule in self.rules:
            if rule.matches(operator, names):
                said = {k: v for k, v in dataclasses.asdict(rule).items() if k != "match" and v}
                found = dataclasses.replace(found, **said)
        return found

    def toml(self, names: Iterable[tuple[str, str]] = ()) -> str:
        """As a file that ``read`` reads.

        Args:
            names: (operator, name) of the model's operators, listed in a comment.
        """
        lines = ["# How edgecc quantises this model; of the rules that match, the last decides."]
        lines += [f"{key} = {_toml(value)}" for key, value in self._switches().items()]
        for rule in self.rules:
            lines += ["", "[[rule]]"]
            fields = dataclasses.asdict(rule).items()
            lines += [f"{key} = {_toml(value)}" for key, value in fields if value is not None]
        listed = [f"#   {operator:16} {name}" for operator, name in names]
        if listed:
            lines += ["", "# Operators and names that `match` is compared with:", *listed]
        return "\n".join(lines) + "\n"

    def _switches(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "rules"
        }

    @staticmethod
    def read(file: Path) -> Recipe:
        """From a TOML file.

        Raises:
            EdgeccError: it can't be read, or says something that is not known.
        """
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise EdgeccError(
                f"--recipe {file}: {error.strerror or 'cannot be read'}",
                "--recipe auto prints a recipe to start from",
            ) from None
        except ValueError as error:
            raise EdgeccError(f"--recipe {file}: {error}") from None
        return Recipe.of(table, f"--recipe {file}")

    @staticmethod
    def of(table: dict[str, Any], where: str) -> Recipe:
        """From the table of a TOML file."""
        table = dict(table)
        rows = table.pop("rule", [])
        switches = {f.name: f.type for f in dataclasses.fields(Recipe) if f.name != "rules"}
        for key, value in table.items():
            if key not in switches:
                known = ", ".join([*switches, "rule"])
                raise EdgeccError(f"{where}: unknown entry '{key}'", f"known are {known}")
            if not isinstance(value, bool):
                raise EdgeccError(f"{where}: {key} must be true or false")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise EdgeccError(f"{where}: rules must be tables", "write [[rule]] before each")
        rules = tuple(_rule(row, f"{where}: rule {i + 1}") for i, row in enumerate(rows))
        return Recipe(rules, **table)


def _rule(row: dict[str, Any], where: str) -> Rule:
    known = [f.name for f in dataclasses.fields(Rule)]
    for key, value in row.items():
        if key not in known:
            raise EdgeccError(f"{where}: unknown entry '{key}'", f"known are {', '.join(known)}")
        if key == "group":
            if value not in GROUPS or isinstance(value, bool):
                known_groups = ", ".join(map(str, GROUPS))
                raise EdgeccError(
                    f"{where}: group = {value} is not known", f"known are {known_groups}"
                )
        elif not isinstance(value, str) or not value:
            raise EdgeccError(f"{where}: {key} must be a text")
    if "match" not in row:
        raise EdgeccError(f"{where}: no entry 'match'", 'match = "*" is about every operator')
    for key, allowed in (
        ("precision", PRECISIONS),
        ("granularity", GRANULARITIES),
        ("weights", WEIGHTS),
        ("activations", ACTIVATIONS),
        ("functions", FUNCTIONS),
    ):
        if key in row and row[key] not in allowed:
            raise EdgeccError(
                f"{where}: {key} = '{row[key]}' is not known", f"known are {', '.join(allowed)}"
            )
    if "calibrator" in row:
        make_calibrator(row["calibrator"])
    return Rule(**row)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


DEFAULT = Recipe(
    (
        Rule("*", "auto", "mse", "per_channel", activations="auto", functions="float"),
        # of two computed operands, as in attention: neither is known before it runs
        Rule("product", "float32"),
        # few rows of a table are read, and all are in the library
        Rule("take", weights="int8"),
    )
)
DEFAULT_HALF = {
    name: Recipe((Rule("*", name),), bias_correction=False) for name in ("float16", "bfloat16")
}


def weights_only(bits: int) -> Recipe:
    """Floats in operators, integers of 8 or 4 bits in the memory of their weights."""
    group = 32 if bits == 4 else None
    return Recipe((Rule("*", "float32", weights=f"int{bits}", group=group),), bias_correction=False)
