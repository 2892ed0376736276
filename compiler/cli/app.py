"""The commands, and what an error looks like."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core

from compiler import __version__
from compiler.cli import (
    bench,
    build,
    debug,
    estimate,
    inspect,
    logs,
    profile,
    report,
    run,
    targets,
    tune,
    verify,
)
from compiler.cli.console import error_line, hint_line
from compiler.cli.options import DEBUG, Debug
from compiler.errors import EdgeccError


class Commands(typer.core.TyperGroup):
    """The group of all commands; the one place where errors become text and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeccError as error:
            _report(ctx, error.message, error.hint)
        except KeyboardInterrupt:
            error_line("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `edgecc targets | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except MemoryError:
            _report(ctx, "out of memory", "a smaller --shape needs less")
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                raise  # usage errors and exits
            text = str(error).strip().splitlines()
            what = f"{type(error).__name__}: {text[-1] if text else ''}".rstrip(": ")
            _report(ctx, f"internal error: {what}", "run again with --debug and report the output")
        raise typer.Exit(1)


def _report(ctx: Any, message: str, hint: str) -> None:
    if ctx.meta.get(DEBUG):
        traceback.print_exc()
    error_line(message)
    if hint:
        hint_line(hint)


def _print_version(value: bool) -> None:
    if value:
        print(f"edgecc {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    name="edgecc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _edgecc(
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compiles ONNX models into small native libraries for ARM, RISC-V and x86 CPUs."""


for command in (
    build.build,
    tune.tune,
    report.report,
    run.run,
    bench.bench,
    profile.profile,
    estimate.estimate,
    verify.verify,
    debug.debug,
    inspect.inspect,
    targets.targets,
):
    app.command()(command)
app.add_typer(logs.logs)
