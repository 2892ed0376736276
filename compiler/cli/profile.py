"""``edgecc profile PACKAGE``: where the time goes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.bench import refuse_foreign
from compiler.cli.options import Debug, Emulate, Json, Package, Threads

if TYPE_CHECKING:
    from compiler.runtime.timing import OperatorTime


def profile(
    package: Package,
    threads: Threads = None,
    runs: Annotated[int, typer.Option(min=1, max=100000, help="Runs to take medians of.")] = 20,
    emulate: Emulate = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time every operator of a package: milliseconds, share, GFLOPS, part of the peak."""
    from compiler.package import open_package
    from compiler.package.verify import golden_inputs

    opened = open_package(package)
    inputs = golden_inputs(opened)
    emulator = refuse_foreign(opened, emulate)
    if emulator:
        from compiler.package.runner import Runner

        used, clock = threads or opened.manifest["target"]["cores"], 0.0
        times = Runner(opened).profile(inputs, runs=min(runs, 5), threads=used)
    else:
        import compiler

        with compiler.load(package, threads or 0) as model:
            times = model.profile(inputs, runs=runs)
            used, clock = model.threads, model.clock_ghz
    templates = [row.get("template", "") for row in opened.receipt()["operators"]]
    peak = peak_gflops(opened.manifest, used, clock)
    if json:
        rows = [
            {**dataclasses.asdict(t), "gflops": t.gflops, "template": name}
            for t, name in zip(times, templates, strict=True)
        ]
        report = {"threads": used, "peak_gflops": peak, "emulator": emulator, "operators": rows}
        console.result_json(report)
        return
    _print(times, templates, peak, used)


def peak_gflops(manifest: dict[str, Any], threads: int, clock_ghz: float) -> float | None:
    """Float32 peak of that many cores at the clock; None where either is unknown."""
    of_cycle = manifest.get("flops_per_cycle")
    if not of_cycle or not clock_ghz:
        return None
    return of_cycle * clock_ghz * min(threads, manifest["target"]["cores"])


def _print(
    times: list[OperatorTime], templates: list[str], peak: float | None, threads: int
) -> None:
    def row(index: str, label: str, template: str, ms: float, share: float, macs: int) -> tuple:
        gflops = 2 * macs / (ms * 1e6) if ms > 0 and macs else 0.0
        rate = f"{gflops:.2f}" if macs else ""
        of_peak = console.percent(gflops / peak) if macs and peak else ""
        return (index, label, template, f"{ms:.4f}", console.percent(share), rate, of_peak)

    rows = [
        row(str(t.index), t.label, template, t.ms, t.share, t.macs)
        for t, template in zip(times, templates, strict=True)
    ]
    total_ms, total_macs = sum(t.ms for t in times), sum(t.macs for t in times)
    rows.append(row("", "total", "", total_ms, 1.0, total_macs))
    console.table(
        ("#", "OPERATOR", "TEMPLATE", "MS", "SHARE", "GFLOPS", "OF PEAK"),
        rows,
        right=(0, 3, 4, 5, 6),
    )
    if peak:
        console.note(f"peak: {peak:.1f} GFLOPS with {threads} threads at the clock measured")
