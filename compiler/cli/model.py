"""The MODEL argument, and the values of --shape and --const."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EdgeccError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import numpy as np


def default_model(start: Path | None = None) -> tuple[Path, str]:
    """The model to use when none is given, and the reason to tell.

    ``[tool.edgecc] model`` of the nearest pyproject.toml upwards of ``start`` (default: the
    current folder), relative to that file; else the digit classifier that is shipped.

    Raises:
        EdgeccError: the entry is no path, or pyproject.toml can't be read.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        project = folder / "pyproject.toml"
        if not project.is_file():
            continue
        try:
            tables = tomllib.loads(project.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EdgeccError(f"{project}: {error}", "give MODEL on the command line") from None
        tool = tables.get("tool", {})
        settings = tool.get("edgecc", {}) if isinstance(tool, dict) else {}
        if not isinstance(settings, dict) or "model" not in settings:
            break
        model = settings["model"]
        if not isinstance(model, str) or not model:
            raise EdgeccError(f"{project}: [tool.edgecc] model: must be the path of an ONNX file")
        return folder / model, f"[tool.edgecc] model of {project}"
    from compiler.shipped import DIGITS

    return DIGITS, "the digit classifier that comes with edgecc"


def parse_shapes(options: list[str]) -> dict[str, tuple[int, ...]]:
    """["x=1x3x224x224", ...] to extents by input name.

    Raises:
        EdgeccError: an option that does not read like this, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for option in options:
        name, value = _split("--shape", option, "image=1x3x224x224", shapes)
        if not re.fullmatch(r"\d{1,18}([x,]\d{1,18})*", value):
            raise EdgeccError(
                f"--shape {option}: '{value}' is no shape", "write --shape image=1x3x224x224"
            )
        shapes[name] = tuple(int(extent) for extent in re.split("[x,]", value))
    return shapes


def parse_consts(options: list[str]) -> dict[str, np.ndarray]:
    """["n=3", "axes=0,1", "w=w.npy", ...] to arrays by input name.

    Whole numbers become int64, others float64, true and false bool; the importer converts them to
    the dtype that the model declares.

    Raises:
        EdgeccError: an option that does not read like this, a name given twice, a bad file.
    """
    consts: dict[str, np.ndarray] = {}
    for option in options:
        name, value = _split("--const", option, "axes=0,1", consts)
        if value.endswith(".npy"):
            consts[name] = load_npy(Path(value), f"--const {name}")
        else:
            consts[name] = _literal(option, value)
    return consts


def load_npy(path: Path, option: str) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        EdgeccError: the file is missing or damaged, or holds Python objects.
    """
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise EdgeccError(f"{option}: {path}: {error.strerror or 'cannot be read'}") from None
    except (ValueError, EOFError) as error:
        raise EdgeccError(
            f"{option}: {path}: not a .npy file of numbers ({error})",
            "write it with numpy.save(path, array)",
        ) from None
    if not isinstance(array, np.ndarray):
        raise EdgeccError(f"{option}: {path}: holds several arrays", "give a .npy file of one")
    return array


def _split(option: str, text: str, example: str, seen: dict) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")  # names may hold "=", values do not
    if not equals or not name or not value:
        raise EdgeccError(f"{option} {text}: must be NAME=VALUE", f"for example {option} {example}")
    if name in seen:
        raise EdgeccError(f"{option} {text}: '{name}' is given twice")
    return name, value


def _literal(option: str, value: str) -> np.ndarray:
    import numpy as np

    items = [item.strip() for item in value.strip("[]").split(",")]
    if value.endswith(",") and len(items) > 1:  # "3," is a list of one
        items.pop()
    for convert, dtype in ((_boolean, "bool"), (int, "int64"), (float, "float64")):
        try:
            numbers = np.array([convert(item) for item in items], dtype)
        except (ValueError, OverflowError):
            continue
        return numbers if "," in value or value.startswith("[") else numbers[0:1].reshape(())
    raise EdgeccError(
        f"--const {option}: '{value}' is no number, list or .npy file",
        "write a scalar (3), a list (1,2,3; of one: 3,) or a file (axes.npy)",
    )


def _boolean(text: str) -> bool:
    if text not in ("true", "false", "True", "False"):
        raise ValueError(text)
    return text in ("true", "True")
