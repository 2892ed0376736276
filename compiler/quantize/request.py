"""What ``compiler.build`` was asked to quantise, checked before anything is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.package.entry import Quantization
from compiler.program import TensorInfo
from compiler.quantize.bound import Bound, Metric
from compiler.quantize.images import Preprocessing
from compiler.quantize.recipe import DEFAULT, DEFAULT_HALF, Recipe, weights_only

if TYPE_CHECKING:
    import tvm

    from compiler.frontend import ImportedModel
    from compiler.quantize.data import CalibrationData
    from compiler.quantize.float16 import Largest, Narrowed
    from compiler.quantize.golden import Accuracy
    from compiler.quantize.ptq import Progress, Quantized
    from compiler.quantize.qdq import Quantum
    from compiler.quantize.search import Trade
    from compiler.target import Target

WEIGHTS_ONLY = {"weights-int8": 8, "weights-int4": 4}
HALVES = ("float16", "bfloat16")
PRECISIONS = ("none", "int8", *HALVES, *WEIGHTS_ONLY)
IO = ("float32", "quantized")


@dataclass(frozen=True)
class Request:
    """Args:
    precision: "int8", or one of ``HALVES`` or ``WEIGHTS_ONLY``, which need no calibration.
    calibration: see ``compiler.quantize.data.open_data``; None: that of the shipped model.
    preprocessing: of pictures; None: that of their folder.
    stored_io: the library takes and returns what the graph stores, integers or float16.
    bound: of what may be lost; None: whatever int8 loses.
    validation: samples to check it on; None: held out of the calibration data.
    """

    precision: str
    calibration: Any
    recipe: Recipe
    preprocessing: Preprocessing | None = None
    stored_io: bool = False
    bound: Bound | None = None
    validation: Any = None

    @property
    def weights_only(self) -> bool:
        return self.precision in WEIGHTS_ONLY


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a request.

    Args:
        data: the samples that calibrated; None for weights alone.
        recipe: what was done; that of the request and what ``bound`` added to it.
        trade: what ``bound`` cost; None without.
    """

    quantized: Quantized
    data: CalibrationData | None
    recipe: Recipe
    trade: Trade | None


def make_request(
    quantize: str,
    calibration: Any,
    recipe: str | Path | Recipe,
    preprocessing: str | Path | Mapping[str, Any] | Preprocessing | None,
    io: str,
    max_drop: str | None = None,
    validation: Any = None,
    metric: Metric | None = None,
) -> Request | None:
    """The request, None for a model in its own precision.

    Raises:
        EdgeccError: an unknown precision, a recipe that can't be read, or options that only
            quantisation knows without it.
    """
    if quantize not in PRECISIONS:
        raise EdgeccError(
            f"--quantize {quantize}: not available",
            "--quantize int8 makes integer arithmetic from calibration data, float16 and bfloat16 "
            "compute in these and need none, weights-int8 and weights-int4 store weights alone as "
            "integers, --quantize none builds the model in its own precision",
        )
    if io not in IO:
        raise EdgeccError(f"--io {io}: not known", f"known are {', '.join(IO)}")
    if quantize == "none":
        if io != IO[0]:
            raise EdgeccError("--io quantized is for quantised models", "give --quantize int8 too")
        if calibration is not None or recipe != "auto" or preprocessing is not None:
            raise EdgeccError(
                "calibration data and recipes are for quantisation", "give --quantize int8 too"
            )
        if max_drop is not None or validation is not None:
            raise EdgeccError("--max-drop is for quantised models", "give --quantize int8 too")
        return None
    if quantize in WEIGHTS_ONLY and (
        calibration is not None or preprocessing is not None or io != IO[0]
    ):
        raise EdgeccError(
            f"--quantize {quantize}: activations stay floats",
            "calibration data and --io quantized are for --quantize int8",
        )
    if quantize == "bfloat16" and io != IO[0]:
        raise EdgeccError(
            "--quantize bfloat16: inputs and outputs are float32",
            "--io quantized is for --quantize int8 and float16",
        )
    if quantize != "int8" and (max_drop is not None or validation is not None):
        raise EdgeccError(f"--quantize {quantize}: --max-drop is for --quantize int8")
    if not isinstance(recipe, Recipe):
        given = None if str(recipe) == "auto" else Recipe.read(Path(recipe))
        recipe = given or _default(quantize)
    _check_precisions(recipe, quantize)
    if isinstance(preprocessing, (str, Path)):
        preprocessing = Preprocessing.read(Path(preprocessing))
    elif isinstance(preprocessing, Mapping):
        preprocessing = Preprocessing.of(dict(preprocessing), "preprocessing")
    bound = None
    if max_drop is not None:
        bound = Bound.parse(max_drop, metric)
    elif validation is not None or metric is not None:
        raise EdgeccError(
            "validation data check a bound", "give one, such as --max-drop agreement:1%"
        )
    return Request(
        quantize, calibration, recipe, preprocessing, io == "quantized", bound, validation
    )


def _default(quantize: str) -> Recipe:
    if quantize in WEIGHTS_ONLY:
        return weights_only(WEIGHTS_ONLY[quantize])
    return DEFAULT if quantize == "int8" else DEFAULT_HALF[quantize]


def _check_precisions(recipe: Recipe, quantize: str) -> None:
    """Operators are of float32 or of the one other precision asked for."""
    known = (quantize, "float32") if quantize in HALVES else ("auto", "int8", "float32")
    for rule in recipe.rules:
        if rule.precision is not None and rule.precision not in known:
            raise EdgeccError(
                f'recipe: match = "{rule.match}" asks for {rule.precision}',
                f"--quantize {quantize} knows {' and '.join(known)}",
            )


def fulfil(
    request: Request,
    imported: ImportedModel,
    module: tvm.IRModule,
    target: Target,
    source: Any,
    progress: Progress,
    exact: bool = False,
) -> Outcome:
    """Quantises a simplified module as it was asked for.

    Args:
        source: of the calibration data, as for ``compiler.quantize.data.open_data``; None for
            weights alone.
        exact: the library will not use Winograd's algorithm.

    Raises:
        EdgeccError: the data do not fit the model, or the bound can't be held.
    """
    from compiler.quantize.data import open_data
    from compiler.quantize.labelled import open_validation, split
    from compiler.quantize.ptq import quantize
    from compiler.quantize.scores import label_shape
    from compiler.quantize.search import quantize_within

    inputs, given = imported.inputs, request.preprocessing
    bound, recipe = request.bound, request.recipe
    if request.weights_only:
        return Outcome(quantize(module, target, None, recipe, progress), None, recipe, None)
    if bound is None:
        data = open_data(source, inputs, given)
        found = quantize(module, target, data, recipe, progress, request.stored_io, exact)
        return Outcome(found, data, recipe, None)
    labels = None
    if bound.kind in ("agreement", "accuracy"):
        shape = label_shape(imported.outputs[0])
        labels = shape if bound.kind == "accuracy" else None
    if request.validation is None:
        data, validation = split(source, inputs, labels, given)
    else:
        data = open_data(source, inputs, given)
        validation = open_validation(request.validation, inputs, labels, given)
    found, recipe, trade = quantize_within(
        module,
        target,
        data,
        recipe,
        bound,
        validation,
        imported.outputs,
        progress,
        request.stored_io,
        exact,
    )
    return Outcome(found, data, recipe, trade)


def io_tensors(
    infos: tuple[TensorInfo, ...], quanta: list[Quantum | None]
) -> tuple[TensorInfo, ...]:
    """Inputs or outputs as the library has them."""
    pairs = zip(infos, quanta, strict=True)
    return tuple(i if q is None else replace(i, dtype=q.dtype) for i, q in pairs)


def io_scales(
    infos: tuple[TensorInfo, ...], quanta: list[Quantum | None]
) -> dict[str, Quantization]:
    """For the manifest and the library's description."""
    pairs = zip(infos, quanta, strict=True)
    return {
        i.name: Quantization(float(q.scale), int(q.zero_point)) for i, q in pairs if q is not None
    }


def describe_half(
    narrowed: Narrowed,
    recipe: str,
    data: CalibrationData | None,
    accuracy: Accuracy | None,
    largest: Largest | None,
) -> dict[str, Any]:
    """The manifest's entry of a model in float16 or bfloat16."""
    return {
        "precision": narrowed.precision,
        "operators": narrowed.summary(),
        "calibration": _calibration(data) if data else None,
        "largest": largest.as_dict() if largest else None,
        "recipe": recipe,
        "sqnr_db": accuracy.rounded() if accuracy else None,
    }


def describe(
    outcome: Outcome, request: Request, recipe: str, accuracy: Accuracy | None
) -> dict[str, Any]:
    """The manifest's entry: everything that the integers depend on, and what came of it."""
    quantized, data, trade = outcome.quantized, outcome.data, outcome.trade
    return {
        "precision": request.precision,
        "operators": quantized.summary(),
        "kept_in_float32": quantized.kept(),
        "calibration": _calibration(data) if data else None,
        "inputs": _scales(quantized, quantized.plan.graph.params),
        "recipe": recipe,
        "sqnr_db": accuracy.rounded() if accuracy else None,
        **({"max_drop": trade.as_dict()} if trade else {}),
    }


def _calibration(data: CalibrationData) -> dict[str, Any]:
    return {
        "samples": data.count,
        "sha256": data.sha256,
        "preprocessing": data.preprocessing.as_dict() if data.preprocessing else None,
    }


def _scales(quantized: Quantized, params: list[Any]) -> dict[str, Any]:
    """How inputs are stored inside, whichever way they come in."""
    found = {p.name: quantized.activations.get(p) for p in params}
    return {
        name: {"dtype": q.dtype, "scale": float(q.scale), "zero_point": int(q.zero_point)}
        for name, q in found.items()
        if q is not None
    }
