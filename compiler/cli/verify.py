"""``edgecc verify PACKAGE``: does the library compute what the model computes?"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from compiler.cli import console
from compiler.cli.options import Debug, Json, Package, Threads
from compiler.errors import EdgeccError


def verify(
    package: Package,
    threads: Threads = None,
    require: Annotated[
        bool, typer.Option("--require", help="A verification that can't run is an error.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the golden inputs through the library, natively or under emulation, and compare."""
    from compiler.package.verify import verify_package

    verification = verify_package(package, threads=threads)
    if json:
        console.result_json(dataclasses.asdict(verification))
    elif verification.status == "skipped":
        console.result(f"skipped: {verification.reason}")
    elif verification.passed:
        console.result(f"{package}: {verification}")
        console.table(
            ("OUTPUT", "DTYPE", "ERROR", "ALLOWED"),
            [(o.name, o.dtype, f"{o.error:.3g}", f"{o.tolerance:g}") for o in verification.outputs],
            right=(2, 3),
        )
    if verification.status == "failed":
        raise EdgeccError(
            f"{package}: {verification}", f"ran {verification.how} on the package's golden.npz"
        )
    if verification.status == "skipped":
        if require:
            raise EdgeccError(f"{package}: {verification.reason}", verification.hint)
        if verification.hint:
            console.hint_line(verification.hint)
