"""``edgecc inspect MODEL|PACKAGE``: what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compiler.cli import chart, console
from compiler.cli.model import default_model, parse_shapes
from compiler.cli.options import Debug, Json, Shape
from compiler.errors import EdgeccError


def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL|PACKAGE", help="An ONNX file or a package folder."),
    ] = None,
    shape: Shape = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model's inputs, outputs, operators and size; of a package also memory and receipt."""
    if path is None:
        path, why = default_model()
        console.note(f"model: {path} ({why})")
    if path.is_dir():
        _package(path, json)
    else:
        _model(path, parse_shapes(shape or []), json)


def _model(path: Path, shapes: dict[str, tuple[int, ...]], json: bool) -> None:
    from compiler.frontend.summary import summarize

    summary = summarize(path, shapes)
    if json:
        console.result_json(summary)
        return
    macs = summary["macs"]
    console.pairs(
        [
            ("model", str(path)),
            ("opset", ", ".join(f"{k or 'ai.onnx'} {v}" for k, v in summary["opsets"].items())),
            ("parameters", console.count(summary["parameters"])),
            ("weights", console.size(summary["weights_bytes"])),
            ("multiply-accumulates", console.count(macs) if macs else "unknown: shapes are open"),
        ]
    )
    _tensors(summary["inputs"], summary["outputs"])
    console.result()
    counts = sorted(summary["operators"].items(), key=lambda item: (-item[1], item[0]))
    console.table(("OPERATOR", "COUNT"), [(op, str(n)) for op, n in counts], right=(1,))


def _tensors(inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
    console.result()
    console.table(
        ("", "NAME", "DTYPE", "SHAPE"),
        [
            (kind, row["name"], row["dtype"], console.shape(row["shape"]))
            for kind, rows in (("input", inputs), ("output", outputs))
            for row in rows
        ],
    )


def _package(path: Path, json: bool) -> None:
    from compiler.package import open_package

    package = open_package(path)
    manifest, receipt = package.manifest, package.receipt()
    if json:
        console.result_json({"manifest": manifest, "receipt": receipt})
        return
    target, arena = manifest["target"], manifest["arena"]
    golden = manifest.get("golden") or {}
    if not package.library.is_file():
        raise EdgeccError(f"{package.library} is missing from the package", "build it again")
    console.pairs(
        [
            ("package", str(path)),
            ("model", f"{package.name}, sha256 {manifest['model']['sha256'][:16]}"),
            ("target", f"{target['name']}: {target['triple']} {target['cpu']}"),
            ("library", f"{manifest['library']}, {console.size(package.library.stat().st_size)}"),
            ("weights", console.size(manifest["weights_bytes"])),
            ("arena", console.size(arena["nbytes"])),
            ("multiply-accumulates", console.count(receipt["macs"])),
            ("golden outputs", golden.get("reference", "none")),
            ("built with", ", ".join(f"{k} {v}" for k, v in manifest["tools"].items())),
        ]
    )
    _tensors(manifest["inputs"], manifest["outputs"])
    _memory(arena, manifest["n_operators"])
    _receipt(receipt)


def _memory(arena: dict[str, Any], n_operators: int) -> None:
    console.result()
    console.heading("Memory plan")
    peak = arena["peak_live"]
    over = f", {console.percent(arena['planned'] / peak - 1)} above" if peak else ""
    console.pairs(
        [
            ("planned", console.size(arena["planned"])),
            ("peak of live tensors", console.size(peak) + over),
            ("scratch of each thread", console.size(arena["scratch_bytes"])),
        ]
    )
    allocations = arena["allocations"]
    if not allocations:
        return
    console.result()
    console.table(
        ("TENSOR", "OFFSET", "BYTES", "FROM", "TO", "IN PLACE OF", "PART OF"),
        [
            (
                row["name"],
                str(row["offset"]),
                str(row["nbytes"]),
                str(row["first"]),
                str(row["last"]),
                row["in_place_of"] or "",
                row["part_of"] or "",
            )
            for row in allocations
        ],
        right=(1, 2, 3, 4),
    )
    console.result()
    for line in chart.memory_chart(allocations, n_operators, arena["planned"]):
        console.result(line)


def _receipt(receipt: dict[str, Any]) -> None:
    console.result()
    console.heading("Receipt")
    known = ("index", "label", "symbol", "nodes", "macs", "nbytes", "share", "template")
    rows = []
    for row in receipt["operators"]:
        rest = ", ".join(f"{k} {v}" for k, v in row.items() if k not in known)
        rows.append(
            (
                str(row["index"]),
                row["label"],
                row.get("template", ""),
                console.percent(row["share"]),
                console.count(row["macs"]),
                rest,
            )
        )
    console.table(("#", "OPERATOR", "TEMPLATE", "SHARE", "MACS", ""), rows, right=(0, 3, 4))
