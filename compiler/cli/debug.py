"""``edgecc debug [MODEL]``: where the error of a quantised model comes from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.model import default_model, parse_consts, parse_shapes
from compiler.cli.options import Calibration, Const, Debug, Json, Model, Recipe, Shape, TargetName
from compiler.cli.progress import Progress
from compiler.errors import EdgeccError

if TYPE_CHECKING:
    from compiler.quantize.debug import Diagnosis


def debug(
    model: Model = None,
    target: TargetName = "host",
    quantize: Annotated[
        str, typer.Option(metavar="int8", help="The precision to look into.")
    ] = "int8",
    calibration: Calibration = None,
    recipe: Recipe = None,
    shape: Shape = None,
    const: Const = None,
    rows: Annotated[int, typer.Option(min=1, help="Layers to print.")] = 20,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="The picture of all layers; default: MODEL-int8.png where matplotlib is there.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a model quantised and in float, layer by layer, those that add most error first."""
    from compiler import api
    from compiler.quantize.chart import can_draw, write_chart

    if plot is not None and not can_draw():
        raise EdgeccError("--plot needs matplotlib", "pip install 'edgecc[plot]'")
    if model is None:
        model, why = default_model()
        console.note(f"model: {model} ({why})")
    with Progress() as progress:
        diagnosis = api.diagnose(
            model,
            target,
            shapes=parse_shapes(shape or []),
            consts=parse_consts(const or []),
            quantize=quantize,
            calibration=calibration,
            recipe=recipe or "auto",
            progress=progress,
        )
    if plot is None and can_draw():
        plot = Path(f"{model.stem}-{quantize}.png")
    if plot is None:
        console.note("no picture: it needs matplotlib (pip install 'edgecc[plot]')")
    else:
        write_chart(list(diagnosis.layers), plot)
        console.note(f"picture: {plot}")
    if json:
        console.result_json(as_json(diagnosis))
    else:
        _print(diagnosis, rows)


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Infinite ratios as null, which JSON knows."""

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }

    first = diagnosis.first_bad
    return {
        "layers": [plain(dataclasses.asdict(layer)) for layer in diagnosis.worst()],
        "first_bad": first.name if first else None,
        "outputs_db": plain(diagnosis.outputs_db),
    }


def _print(diagnosis: Diagnosis, rows: int) -> None:
    worst = diagnosis.worst()
    console.table(
        ("LAYER", "OPERATOR", "SQNR", "COSINE", "SHARE"),
        [
            (
                layer.name,
                layer.operator,
                f"{layer.sqnr_db:.1f} dB",
                f"{layer.cosine:.5f}",
                console.percent(layer.share),
            )
            for layer in worst[:rows]
        ],
        right=(2, 3, 4),
    )
    console.result()
    if len(worst) > rows:
        console.result(f"and {len(worst) - rows} more layers")
    for name, db in diagnosis.outputs_db.items():
        console.result(f"output '{name}': {db:.1f} dB above the quantisation noise")
    first = diagnosis.first_bad
    if first is None:
        console.result("no layer is below 20 dB")
        return
    console.result(f"the first layer below 20 dB is {first.name} ({first.operator})")
    console.hint_line(
        f'a rule with match = "{first.name}" and precision = "float32" keeps it in float; '
        "`edgecc build --recipe auto` prints a recipe to start from"
    )
