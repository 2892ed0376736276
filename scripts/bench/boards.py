"""Estimate the suite on boards that are not here: instructions, cache misses, milliseconds.

    python scripts/bench/boards.py
    python scripts/bench/boards.py --models squeezenet --targets arm_cortex_a72 riscv_sifive_u74

Each network is built for each target and run once under qemu-user with the counting plugin of
`edgecc estimate`: one inference, one thread, float32. Counts repeat exactly, so unlike times they
may be compared between machines. CPUs without a fit get no milliseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import compiler  # noqa: E402
from compiler.cli.console import (  # noqa: E402
    count,
    error_line,
    hint_line,
    note,
    result_json,
    table,
)
from compiler.errors import EdgeccError  # noqa: E402
from scripts.bench.suite import SUITE, write_network  # noqa: E402
from scripts.modelzoo.registry import FetchError  # noqa: E402

MODELS = ("mobilenet_v2", "squeezenet")
TARGETS = ("arm_cortex_a53", "arm_cortex_a72", "arm_cortex_a76")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when something could not be built, fetched or emulated."""
    args = _parse(arguments)
    try:
        rows = list(estimates(args.models, args.targets))
    except EdgeccError as error:
        error_line(error.message)
        hint_line(error.hint)
        return 1
    except FetchError as error:
        error_line(str(error))
        return 1
    if args.json:
        result_json({"rows": rows})
    else:
        _print(rows)
    if args.out:
        args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


def estimates(models: Sequence[str], targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row a network and target."""
    from compiler.estimate.package import estimate_package
    from compiler.package import open_package

    with tempfile.TemporaryDirectory() as work:
        for name in models:
            network = write_network(name, Path(work) / name) / "model.onnx"
            for target in targets:
                note(f"{name} for {target}")
                folder = Path(work) / f"{name}-{target}"
                # Not tuned: emulated records are chosen by the estimate.
                compiler.build(network, target, output=folder, verify=False, tuning_logs=())
                estimated = estimate_package(open_package(folder), None)
                counts = estimated.counts
                yield {
                    "model": name,
                    "target": target,
                    "macs": estimated.macs,
                    "instructions": counts.instructions,
                    "fma_share": counts.fma_share,
                    "l1d_misses": counts.l1d_misses,
                    "l2_misses": counts.l2_misses,
                    "ms": estimated.ms,
                    "error_ms": estimated.error_ms,
                }


def _print(rows: Sequence[dict[str, Any]]) -> None:
    def line(row: dict[str, Any]) -> tuple[str, ...]:
        ms = "" if row["ms"] is None else f"{row['ms']:.1f} ± {row['error_ms']:.1f}"
        return (
            row["model"],
            row["target"],
            count(row["instructions"]),
            f"{row['instructions'] / row['macs']:.3f}",
            f"{100 * row['fma_share']:.0f} %",
            count(row["l1d_misses"]),
            count(row["l2_misses"]),
            ms,
        )

    header = ("MODEL", "TARGET", "INSTR", "PER MAC", "FMA", "L1D", "L2", "MS")
    table(header, [line(row) for row in rows], right=tuple(range(2, len(header))))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=SUITE, metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=TARGETS, metavar="NAME")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the rows as JSON")
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
