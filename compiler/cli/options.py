"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEBUG = "edgecc.debug"  # key of the context's meta


def _set_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[DEBUG] = True
    return value


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show tracebacks of errors."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Package = Annotated[
    Path, typer.Argument(metavar="PACKAGE", help="The folder that `edgecc build` wrote.")
]
Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="The ONNX file; default: [tool.edgecc] model of pyproject.toml, else the digit "
        "classifier that comes with edgecc.",
        show_default=False,
    ),
]
TargetName = Annotated[
    str,
    typer.Option("--target", "-t", metavar="NAME|FILE", help="See `edgecc targets`."),
]
Const = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Value of an input that is compiled in: a number, a list 1,2,3 or a .npy file; "
        "repeatable.",
    ),
]
Exact = Annotated[
    bool,
    typer.Option("--exact", help="Only sums of products: no Winograd convolutions."),
]
Quantize = Annotated[
    str,
    typer.Option(
        metavar="int8|float16|bfloat16|weights-int8|weights-int4|none",
        help="int8: integer arithmetic, by calibration data. float16, bfloat16: on CPUs with "
        "arithmetic for it. "
        "weights-*: weights of products and tables of rows alone. Only int8 needs data.",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="For --quantize: .npz of arrays by input name, or a folder of .npy files or of "
        "pictures with a preprocessing.toml.",
        show_default=False,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="auto|FILE",
        help="For --quantize: rules in TOML; auto prints those of the build to start from.",
        show_default=False,
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="KIND:BOUND",
        help="For --quantize: leave operators in float32 until sqnr:20 (dB), agreement:1% (of "
        "labels may differ from float32's) or accuracy:0.1% (points on labelled data) holds.",
        show_default=False,
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="For --max-drop: data to check it on, as --calibration; labels: an array of that name "
        "in the .npz, or a folder of pictures for each class. Default: a quarter of the "
        "calibration samples.",
        show_default=False,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x224x224",
        help="Shape of an input that the model leaves open; repeatable.",
    ),
]
TuningLogs = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of tuning logs; default: ./tuning_logs, then those that come with edgecc.",
        show_default=False,
    ),
]
Emulate = Annotated[
    bool,
    typer.Option("--emulate", help="Time a foreign target under its emulator all the same."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Threads to use instead of the target's cores."),
]
