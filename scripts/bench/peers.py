"""Measure edgecc against ONNX Runtime, OpenVINO, ncnn, MNN and LiteRT.

    python scripts/bench/peers.py                                   everything that is installed
    python scripts/bench/peers.py --models mobilenet_v2 minilm --engines edgecc onnxruntime
    python scripts/bench/peers.py --precision int8

Each engine has a process of its own, pinned to as many cores as it has threads. They take turns,
round by round, and while one has its turn all others are stopped. Times are of single inferences
at batch 1 through each engine's Python interface, with the inputs in place. An engine whose
outputs differ from those of unoptimised ONNX Runtime in float32 is not timed. Ratios are the median
over the rounds of one turn's median over the other's of the same round. With --precision int8 each
engine quantises the network by its own tool, on the same samples.

The engines: pip install 'edgecc[bench]'; to convert models for ncnn, pip install --no-deps pnnx;
for LiteRT, pip install ai-edge-litert onnx2tf tensorflow-cpu (better in an environment of its own).
The table goes to stdout; OUT gets results.json and results.md, row by row, peers.png and all
converted models.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.cli.bench import read_governor  # noqa: E402
from compiler.cli.console import error_line, note, result_json, warning_line  # noqa: E402
from scripts.bench.engines import ENGINES, INT8_ENGINES, Engine  # noqa: E402
from scripts.bench.measure import TOLERANCE, Plan, measure  # noqa: E402
from scripts.bench.processes import EngineError, Process, choose_cpus  # noqa: E402
from scripts.bench.report import (  # noqa: E402
    chart_problem,
    print_tables,
    write_chart,
    write_markdown,
)
from scripts.bench.results import OURS, Row, to_json  # noqa: E402
from scripts.bench.suite import SUITE, write_network  # noqa: E402
from scripts.modelzoo.registry import FetchError  # noqa: E402

PRECISIONS = {"float32": ENGINES, "int8": INT8_ENGINES}
# Of networks with random weights, which amplify every step of quantisation: what is beyond is no
# result at all.
INT8_TOLERANCE = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when edgecc failed on a network or nothing could be measured."""
    args = _parse(arguments)
    known = PRECISIONS[args.precision]
    engines = installed([known[name] for name in args.engines or known])
    if not engines:
        error_line("none of the engines is installed")
        return 1
    plan = Plan(tuple(args.threads), args.rounds, args.seconds, args.tolerance)
    try:
        choose_cpus(max(plan.threads))
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        args.out.mkdir(parents=True, exist_ok=True)
        about = {**describe_machine(), "started": started, "engines": versions(engines, args.out)}
    except (EngineError, OSError) as error:
        error_line(str(error))
        return 1
    about["precision"] = args.precision
    about["plan"] = {"rounds": plan.rounds, "seconds": plan.seconds, "tolerance": plan.tolerance}

    def keep(rows: list[Row]) -> None:
        report = json.dumps(to_json(rows, about), indent=2)
        (args.out / "results.json").write_text(report + "\n")
        write_markdown(rows, engines, args.out / "results.md")

    rows = run(args.models, engines, plan, args.out, keep)
    if not rows:
        error_line("no network could be measured")
        return 1
    if args.json:
        result_json(to_json(rows, about))
    else:
        print_tables(rows, engines)
    if problem := chart_problem():
        note(problem)
    else:
        write_chart(rows, engines, args.out / "peers.png")
        note(f"chart: {args.out / 'peers.png'}")
    note(f"results: {args.out / 'results.json'}, {args.out / 'results.md'}")
    ours = [row.entries[OURS] for row in rows if OURS in row.entries]
    measured = {row.model for row in rows}
    return 1 if any(not entry.timed for entry in ours) or len(measured) < len(args.models) else 0


def installed(engines: Sequence[type[Engine]]) -> list[type[Engine]]:
    """Those that can be used; says which can't, and why."""
    usable = []
    for engine in engines:
        if missing := engine.missing():
            warning_line(f"{engine.title} is left out: {missing}")
        else:
            usable.append(engine)
    return usable


def run(
    models: Sequence[str],
    engines: Sequence[type[Engine]],
    plan: Plan,
    out: Path,
    keep: Callable[[list[Row]], None],
) -> list[Row]:
    """Measures network by network; says which could not be had.

    Args:
        keep: called with all rows whenever there is one more.
    """
    rows: list[Row] = []
    started = time.monotonic()

    def say(text: str) -> None:
        note(f"[{time.monotonic() - started:6.1f} s] {text}")

    for name in models:
        try:
            network = write_network(name, (out / name).resolve())
            for row in measure(name, network, engines, plan, say):
                rows.append(row)
                keep(rows)
        except (FetchError, EngineError) as error:
            warning_line(f"{name} is left out: {error}")
    return rows


def versions(engines: Sequence[type[Engine]], out: Path) -> dict[str, str]:
    """Of the engines' libraries; an engine that does not load has its words instead."""
    found = {}
    for engine in engines:
        with Process(engine, out / "log.txt") as process:
            try:
                found[engine.name] = process.ask("version")
            except EngineError as error:
                found[engine.name] = f"does not load: {error}"
    return found


def describe_machine() -> dict[str, Any]:
    """CPU, frequency governor and load before the start; warns of what makes times unsteady."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    load = os.getloadavg()[0]
    governor = read_governor()
    if load > 0.5:
        warning_line(f"the machine is busy (load {load:.1f}): these times mean little")
    if governor and governor != "performance":
        warning_line(f"the frequency governor is '{governor}'; 'performance' is steadier")
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "governor": governor,
        "load": load,
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SUITE), metavar="NAME")
    parser.add_argument("--engines", nargs="+", metavar="NAME")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--threads", nargs="+", type=_positive, default=[1, 2], metavar="N")
    parser.add_argument("--rounds", type=_positive, default=10, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=0.3, metavar="S", help="of an engine's turn (0.3)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="E",
        help="relative error of outputs above which an engine is not timed "
        f"({TOLERANCE}; int8: {INT8_TOLERANCE})",
    )
    parser.add_argument("--out", type=Path, default=Path("build/peers"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="results as JSON on stdout")
    args = parser.parse_args(arguments)
    if args.tolerance is None:
        args.tolerance = TOLERANCE if args.precision == "float32" else INT8_TOLERANCE
    for option, names, known in (
        ("--models", args.models, SUITE),
        ("--engines", args.engines or (), PRECISIONS[args.precision]),
    ):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                parser.error(f"{option}: no {name!r}; {hint}")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
