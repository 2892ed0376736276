"""``edgecc report LOG``: a tuning log as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compiler.cli import console
from compiler.cli.options import Debug
from compiler.target import load_target


def report(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="One target's log: tuning_logs/TARGET.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")
    ] = Path("report.html"),
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME|FILE",
            help="Where LOG is not named after its target.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a page about a tuning log: best-so-far curves, gains, and what was chosen and why."""
    from compiler.tuning.report import write_report

    count = write_report(log, output, load_target(target) if target else None)
    console.result(f"{output}: {count} operators")
