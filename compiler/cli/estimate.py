"""``edgecc estimate PACKAGE``: how long one inference would take on a board that is not here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.options import Debug, Json, Package
from compiler.target import load_target

if TYPE_CHECKING:
    from compiler.estimate import Counts, Estimate


def estimate(
    package: Package,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Take this CPU's caches, clock and fit, not the package's."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Count instructions and cache misses under emulation; estimate the board's milliseconds."""
    from compiler.estimate import estimate_package
    from compiler.package import open_package

    estimated = estimate_package(open_package(package), load_target(target) if target else None)
    if json:
        console.result_json(as_json(estimated))
        return
    _print_operators(estimated)
    console.result()
    _print_summary(estimated)


def as_json(estimated: Estimate) -> dict[str, Any]:
    """The whole answer for machines. Counts repeat exactly; keep these to notice a change."""
    from compiler.estimate.package import UNKNOWN

    fit = estimated.target.estimate
    return {
        "target": estimated.target.name,
        "emulator": estimated.emulator,
        "threads": 1,
        "frequency_ghz": estimated.target.frequency_ghz,
        "caches": dataclasses.asdict(estimated.target.caches),
        "fit": dataclasses.asdict(fit) if fit else None,
        "ms": estimated.ms,
        "error_ms": estimated.error_ms,
        "macs": estimated.macs,
        **_counts(estimated.counts),
        "operators": [
            {
                "index": row.index,
                "label": row.label,
                "template": row.template,
                "ms": row.ms,
                "share": row.share,
                "macs": row.macs,
                "instructions_per_mac": row.instructions_per_mac,
                **_counts(row.counts),
            }
            for row in estimated.operators
        ],
        "unknown": list(UNKNOWN),
    }


def _counts(counts: Counts) -> dict[str, Any]:
    from compiler.estimate import CLASSES

    return {
        "instructions": counts.instructions,
        "classes": {name: counts[name] for name in CLASSES},
        "vector_share": counts.vector_share,
        "fma_share": counts.fma_share,
        "l1d_misses": counts.l1d_misses,
        "l2_misses": counts.l2_misses,
    }


def _print_operators(estimated: Estimate) -> None:
    header = ["#", "OPERATOR", "TEMPLATE", "INSTR", "PER MAC", "VECTOR", "FMA", "L1D", "L2"]
    timed = estimated.ms is not None
    header += ["MS", "SHARE"] if timed else ["SHARE"]

    def row(
        start: list[str], macs: int, counts: Counts, ms: float | None, share: float
    ) -> list[str]:
        return [
            *start,
            console.count(counts.instructions),
            f"{counts.instructions / macs:.3f}" if macs else "",
            console.percent(counts.vector_share),
            console.percent(counts.fma_share),
            console.count(counts.l1d_misses),
            console.count(counts.l2_misses),
            *([] if ms is None else [f"{ms:.3f}"]),
            console.percent(share),
        ]

    rows = [
        row([str(o.index), o.label, o.template], o.macs, o.counts, o.ms, o.share)
        for o in estimated.operators
    ]
    rows.append(row(["", "total", ""], estimated.macs, estimated.counts, estimated.ms, 1.0))
    console.table(header, rows, right=(0, *range(3, len(header))))


def _print_summary(estimated: Estimate) -> None:
    from compiler.estimate import CLASSES
    from compiler.estimate.package import UNKNOWN

    target, counts, fit = estimated.target, estimated.counts, estimated.target.estimate
    classes = ", ".join(f"{n} {console.count(counts[n])}" for n in CLASSES if counts[n])
    caches = target.caches
    rows = [
        ("target", f"{target.name}: {target.description}, one thread"),
        ("counted", f"under {estimated.emulator}, the run after a warm-up"),
        ("instructions", f"{counts.instructions:,}: {classes}"),
        ("vector share", f"{console.percent(counts.vector_share)} on whole vector registers"),
        ("L1D misses", f"{counts.l1d_misses:,} of {_cache(caches.l1d, caches.l1d_ways)}"),
        ("L2 misses", f"{counts.l2_misses:,} of {_cache(caches.l2, caches.l2_ways)}"),
        ("multiply-adds", f"{estimated.macs:,}"),
    ]
    if fit and estimated.ms is not None:
        clock = f"at {target.frequency_ghz:g} GHz"
        about = f"{estimated.ms:.4g} ms +/- {estimated.error_ms:.2g} ms {clock}"
        rows += [("estimate", about), ("from", f"{fit.source}; mean error {100 * fit.error:.1f} %")]
    else:
        rows.append(("estimate", "none: nobody has fitted this CPU's time to counts"))
    console.pairs(rows)
    console.result()
    console.heading("What this can't know")
    for line in UNKNOWN:
        console.result(f"- {line}")


def _cache(nbytes: int, ways: int) -> str:
    return f"{console.size(nbytes)}, {ways} ways, least recently used" if nbytes else "no L2"
