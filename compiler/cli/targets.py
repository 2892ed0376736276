"""``edgecc targets [NAME]``: the CPUs that can be built for."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.options import Debug, Json
from compiler.target import Target, list_targets, load_target


def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="Show all about one target.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the CPUs to build for, or describe one."""
    if name is not None:
        _describe(load_target(name), json)
    else:
        _list([load_target(known) for known in list_targets()], json)


def _list(found: list[Target], json: bool) -> None:
    if json:
        console.result_json([as_json(target) for target in found])
        return
    console.table(
        ("NAME", "CORES", "GHZ", "VECTOR", "GFLOPS", "DESCRIPTION", "BOARDS"),
        [
            (
                target.name,
                str(target.cores),
                f"{target.frequency_ghz:g}",
                f"{target.vector.bits} bit" if target.vector.bits else "none",
                f"{target.peak_gflops():.1f}",
                target.description,
                ", ".join(target.boards[:2]),
            )
            for target in found
        ],
        right=(1, 2, 3, 4),
    )


def _describe(target: Target, json: bool) -> None:
    if json:
        console.result_json(as_json(target))
        return
    vector, caches, emulator = target.vector, target.caches, target.emulator
    fma = "FMA" if vector.fma else "no FMA"
    unit = f"{vector.bits} bit" if vector.bits else "scalar registers only"
    levels = (("L1d", caches.l1d), ("L2", caches.l2), ("L3", caches.l3))
    rows = [
        ("name", target.name),
        ("description", target.description),
        ("boards", ", ".join(target.boards)),
        ("triple", target.triple),
        ("cpu", target.cpu),
        ("features", " ".join(target.features)),
        ("cores", f"{target.cores} at {target.frequency_ghz:g} GHz"),
        ("vector unit", f"{unit}, {vector.registers} registers, {fma}"),
        ("peak", f"{target.peak_gflops():.1f} GFLOPS a core (float32)"),
        ("caches", ", ".join(f"{name} {console.size(n)}" for name, n in levels if n)),
        ("linker", f"zig cc -target {target.linker_triple} -mcpu={target.linker_cpu}"),
        ("emulator", " ".join(emulator.command) if emulator else "none"),
        ("estimate", target.estimate.source if target.estimate else "counts only, no fit"),
    ]
    if emulator:
        rows.append(("Debian packages", " ".join(emulator.packages)))
    console.pairs([row for row in rows if row[1]])


def as_json(target: Target) -> dict[str, Any]:
    return {**dataclasses.asdict(target), "peak_gflops": target.peak_gflops()}
