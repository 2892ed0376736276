"""What ``compiler.build`` was asked to quantise, checked before anything is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.quantize.images import Preprocessing
from compiler.quantize.recipe import DEFAULT, Recipe

if TYPE_CHECKING:
    from compiler.quantize.data import CalibrationData
    from compiler.quantize.golden import Accuracy
    from compiler.quantize.ptq import Quantized

PRECISIONS = ("none", "int8")


@dataclass(frozen=True)
class Request:
    """Args:
    calibration: see ``compiler.quantize.data.open_data``; None: that of the shipped model.
    preprocessing: of pictures; None: that of their folder.
    """

    calibration: Any
    recipe: Recipe
    preprocessing: Preprocessing | None = None


def make_request(
    quantize: str,
    calibration: Any,
    recipe: str | Path | Recipe,
    preprocessing: str | Path | Mapping[str, Any] | Preprocessing | None,
) -> Request | None:
    """The request, None for a model in its own precision.

    Raises:
        EdgeccError: an unknown precision, a recipe that can't be read, or options that only
            quantisation knows without it.
    """
    if quantize not in PRECISIONS:
        raise EdgeccError(
            f"--quantize {quantize}: not available",
            "--quantize int8 makes integer arithmetic from calibration data, --quantize none "
            "builds the model in its own precision",
        )
    if quantize == "none":
        if calibration is not None or recipe != "auto" or preprocessing is not None:
            raise EdgeccError(
                "calibration data and recipes are for quantisation", "give --quantize int8 too"
            )
        return None
    if not isinstance(recipe, Recipe):
        recipe = DEFAULT if str(recipe) == "auto" else Recipe.read(Path(recipe))
    if isinstance(preprocessing, (str, Path)):
        preprocessing = Preprocessing.read(Path(preprocessing))
    elif isinstance(preprocessing, Mapping):
        preprocessing = Preprocessing.of(dict(preprocessing), "preprocessing")
    return Request(calibration, recipe, preprocessing)


def describe(
    quantized: Quantized, recipe: str, data: CalibrationData, accuracy: Accuracy | None
) -> dict[str, Any]:
    """The manifest's entry: everything that the integers depend on, and what came of it."""
    preprocessing = data.preprocessing.as_dict() if data.preprocessing else None
    return {
        "precision": "int8",
        "operators": quantized.summary(),
        "calibration": {
            "samples": data.count,
            "sha256": data.sha256,
            "preprocessing": preprocessing,
        },
        "recipe": recipe,
        "sqnr_db": accuracy.rounded() if accuracy else None,
    }
