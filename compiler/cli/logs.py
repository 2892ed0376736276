"""``edgecc logs``: list, merge, prune, export and import tuning logs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from compiler.cli import console
from compiler.cli.options import Debug, Json

LOGS = Path("tuning_logs")
Folder = Annotated[Path, typer.Option("--tuning-logs", metavar="DIR", help="The folder of logs.")]

logs = typer.Typer(
    name="logs", no_args_is_help=True, help="List, merge, prune, export and import tuning logs."
)


@logs.command("list")
def list_logs(tuning_logs: Folder = LOGS, json: Json = False, debug: Debug = False) -> None:
    """Show what the logs hold, a line a target."""
    from compiler.tuning import manage

    found = [manage.summarize(path) for path in manage.logs_in(tuning_logs)]
    if json:
        console.result_json([dataclasses.asdict(summary) for summary in found])
        return
    console.table(
        ("TARGET", "OPERATORS", "MEASURED", "EMULATED", "FAILED", "SESSIONS", "SIZE"),
        [
            (
                s.target,
                *map(str, (s.workloads, s.measured, s.emulated, s.failed, s.sessions)),
                console.size(s.nbytes),
            )
            for s in found
        ],
        right=(1, 2, 3, 4, 5, 6),
    )


@logs.command("merge")
def merge_logs(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Logs to take from.")],
    tuning_logs: Folder = LOGS,
    debug: Debug = False,
) -> None:
    """Take over the best record of each operator from other logs."""
    from compiler.tuning import manage

    _print_taken(manage.merge(sources, tuning_logs))


@logs.command("prune")
def prune_logs(tuning_logs: Folder = LOGS, debug: Debug = False) -> None:
    """Keep only the record of each operator that builds take."""
    from compiler.tuning import manage

    for path in manage.logs_in(tuning_logs):
        before, after = manage.prune(path)
        console.result(f"{path.name}: {after} of {before} records kept")


@logs.command("export")
def export_logs(
    archive: Annotated[Path, typer.Argument(metavar="FILE.tar.gz")],
    tuning_logs: Folder = LOGS,
    debug: Debug = False,
) -> None:
    """Write the best records to one file."""
    from compiler.tuning import manage

    count = manage.export(tuning_logs, archive)
    console.result(f"{archive}: {count} records, {console.size(archive.stat().st_size)}")


@logs.command("import")
def import_logs(
    archive: Annotated[Path, typer.Argument(metavar="FILE.tar.gz")],
    tuning_logs: Folder = LOGS,
    debug: Debug = False,
) -> None:
    """Take over the records of such a file where they are better."""
    from compiler.tuning import manage

    _print_taken(manage.import_archive(archive, tuning_logs))


def _print_taken(taken: dict[str, int]) -> None:
    for target, count in sorted(taken.items()):
        console.result(f"{target}: {count} records taken over")
    if not taken:
        console.result("nothing there is better than what is here")
