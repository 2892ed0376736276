"""``edgecc build [MODEL]``: ONNX to a verified package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.model import default_model, parse_consts, parse_shapes
from compiler.cli.options import (
    Calibration,
    Const,
    Debug,
    Exact,
    Json,
    MaxDrop,
    Model,
    Quantize,
    Recipe,
    Shape,
    TargetName,
    TuningLogs,
    Validation,
)
from compiler.cli.progress import Progress

if TYPE_CHECKING:
    from compiler.api import BuildResult
    from compiler.target import Target


def build(
    model: Model = None,
    target: TargetName = "host",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The package folder; default: build/MODEL-TARGET.",
            show_default=False,
        ),
    ] = None,
    shape: Shape = None,
    const: Const = None,
    quantize: Quantize = "none",
    calibration: Calibration = None,
    recipe: Recipe = None,
    max_drop: MaxDrop = None,
    validation: Validation = None,
    io: Annotated[
        str,
        typer.Option(
            metavar="float32|quantized",
            help="For --quantize: what the library takes and returns.",
        ),
    ] = "float32",
    exact: Exact = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where an operator has no schedule template.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Make no golden data and do not run the library.")
    ] = False,
    tuning_logs: TuningLogs = None,
    untuned: Annotated[
        bool, typer.Option("--untuned", help="Take no tuning log: every template's default.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile an ONNX model into a package: library, header, manifest, golden data, receipt."""
    from compiler import api

    shapes, consts = parse_shapes(shape or []), parse_consts(const or [])
    if model is None:
        model, why = default_model()
        console.note(f"model: {model} ({why})")
    with Progress() as progress:
        result = api.build(
            model,
            target,
            output,
            shapes=shapes,
            consts=consts,
            quantize=quantize,
            calibration=calibration,
            recipe=recipe or "auto",
            max_drop=max_drop,
            validation=validation,
            io=io,
            exact=exact,
            strict=strict,
            verify=not no_verify,
            tuning_logs=() if untuned else [tuning_logs] if tuning_logs else None,
            progress=progress,
        )
    if json:
        console.result_json(as_json(result))
    elif recipe == "auto" and quantize != "none":  # alone, so that it can go to a file
        entry = result.manifest["quantization"]
        for name, text in _trade(entry.get("max_drop")):
            console.note(f"{name}: {text}")
        console.result(entry["recipe"].rstrip("\n"))
    else:
        _print(result)


def as_json(result: BuildResult) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "target": result.target.name,
        "library_bytes": result.library_bytes,
        "arena_bytes": result.manifest["arena"]["nbytes"],
        "weights_bytes": result.manifest["weights_bytes"],
        "operators": result.manifest["n_operators"],
        "macs": result.receipt["macs"],
        "tuned": result.receipt["summary"].get("tuned", {}),
        "work": result.receipt["summary"].get("template", {}),
        "quantization": result.manifest.get("quantization"),
        "verification": dataclasses.asdict(result.verification) if result.verification else None,
        "seconds": round(result.seconds, 3),
    }


def _quantization(
    entry: dict[str, Any] | None, precisions: list[tuple[str, float]], target: Target
) -> list[tuple[str, str]]:
    """The rows about precision, of quantised models."""
    if entry is None:
        return []
    from compiler.quantize.request import HALVES

    counts, calibration = entry["operators"], entry["calibration"]
    total = sum(counts.values())
    stored = [f"{n} with {p}" for p, n in counts.items() if p not in ("int8", "float32")]
    if entry["precision"] in HALVES:
        narrow = entry["precision"]
        text = f"{counts[narrow]} of {total} convolutions and products in {narrow}"
    elif calibration is None:
        text = f"{', '.join(stored) or 'none'} of {total} convolutions and products"
    else:
        text = ", ".join(
            [f"{counts['int8']} of {total} convolutions and products in int8", *stored]
        )
    if calibration is not None and calibration["samples"]:
        text += f", {calibration['samples']} calibration samples"
    if entry["precision"] == "int8":
        text += _why_floats(entry, target)
    rates = [db for db in (entry["sqnr_db"] or {}).values() if db is not None]
    if rates:
        text += f", {min(rates):.1f} dB above the quantisation noise"
    shares = ", ".join(f"{name} {console.percent(share)}" for name, share in precisions)
    return [("quantised", text), *_trade(entry.get("max_drop")), ("precision", shares)]


def _trade(trade: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The rows about what a bound cost."""
    if trade is None:
        return []
    held_out = "held out" if trade["held_out"] else "which calibrate too"
    rows = [("max drop", f"{trade['bound']}, on {trade['measured_on']} ({held_out})")]
    if not trade["candidates"]:
        return [*rows, ("trade", "none: nothing is in int8")]
    if not trade["layers"] and not trade["words"]:
        return [*rows, ("trade", f"{trade['int8']} with all in int8: nothing stays in float32")]
    nbytes = {name: console.size(value) for name, value in trade["weights"].items()}
    text = f"{trade['int8']} -> {trade['result']} (float32: {trade['float32']}), weights "
    text += f"{nbytes['int8']} -> {nbytes['result']} (float32: {nbytes['float32']})"
    rows += [("trade", text)]
    for title, names in (("in float32", trade["layers"]), ("with int16", trade["words"])):
        if names:
            text = f"{len(names)} of {trade['candidates']} layers: {', '.join(names)}"
            rows.append((title, text))
    if not trade["complete"]:
        rows.append(("search", "time was up before fewer were found"))
    return rows


def _why_floats(entry: dict[str, Any], target: Target) -> str:
    """What to add about operators that int8 was asked for, but would slow down."""
    from compiler.passes.dot_layout import dot_layouts

    text = ""
    if entry["kept_in_float32"]:
        text = f"; {len(entry['kept_in_float32'])} stay in float32, which is faster for them here"
    if not dot_layouts(target):
        text += f"; {target.name} multiplies and adds floats in one instruction, bytes in two"
    elif not entry["operators"]["int8"] and not text:
        text = "; float32 is faster on this CPU, or the recipe wants it"
    return text


def _print(result: BuildResult) -> None:
    manifest, receipt = result.manifest, result.receipt
    work = receipt["summary"].get("template", {})
    shares = sorted(work.items(), key=lambda item: -item[1])
    origins = receipt["summary"].get("tuned", {})
    dtypes = receipt["summary"].get("executed_dtype", {})
    precisions = sorted(dtypes.items(), key=lambda item: -item[1])
    tuned = sorted(origins.items(), key=lambda item: -item[1])
    verification = str(result.verification) if result.verification else "not asked for"
    console.pairs(
        [
            ("package", str(result.path)),
            ("target", f"{result.target.name}: {result.target.description}"),
            ("library", f"{manifest['library']}, {console.size(result.library_bytes)}"),
            ("weights", console.size(manifest["weights_bytes"])),
            ("arena", console.size(manifest["arena"]["nbytes"])),
            (
                "operators",
                f"{manifest['n_operators']}, {console.count(receipt['macs'])} multiply-accumulates",
            ),
            ("work", ", ".join(f"{name} {console.percent(share)}" for name, share in shares)),
            *_quantization(manifest.get("quantization"), precisions, result.target),
            (
                "tuned",
                ", ".join(f"{name} {console.percent(share)}" for name, share in tuned)
                or "no, every template's default",
            ),
            ("verification", verification.removeprefix("verification ")),
        ]
    )
    if "outdated" in origins:
        console.warning_line(
            f"{console.percent(origins['outdated'])} of the work has records of an earlier version "
            "of its template, which are left out; `edgecc tune` makes new ones"
        )
    if result.verification and result.verification.status == "skipped":
        console.warning_line("the package was not verified on its target")
