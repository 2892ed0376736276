"""``edgecc tune [MODEL]``: search schedules on the real machine and keep what was learnt."""

from __future__ import annotations

import dataclasses
import json as json_module
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.model import default_model, parse_consts, parse_shapes
from compiler.cli.options import (
    Calibration,
    Const,
    Debug,
    Exact,
    MaxDrop,
    Model,
    Quantize,
    Recipe,
    Shape,
    TargetName,
    Validation,
)
from compiler.cli.tuning_view import make_view
from compiler.errors import EdgeccError

if TYPE_CHECKING:
    from compiler.tuning.api import TuneResult


Trials = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Candidates to try at most; default: until more promise less than 1 % of the "
        "model's time.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Threads of the kernels; default: the target's cores."),
]
Logs = Annotated[
    Path, typer.Option(metavar="DIR", help="Where records are kept, a folder a target.")
]
Runner = Annotated[
    str | None,
    typer.Option(
        metavar="emulated",
        help="Rank candidates by the estimate of `edgecc estimate`: needs no board.",
        show_default=False,
    ),
]
Ssh = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[USER@]HOST[:PORT]",
        help="Measure on a board over SSH; nothing must be installed there; repeatable.",
    ),
]
Rpc = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST:PORT", help="Measure on a TVM RPC server; repeatable."),
]
Tracker = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Measure on the boards of a TVM RPC tracker."),
]
Key = Annotated[str | None, typer.Option(help="Of the boards at the tracker.", show_default=False)]
Builders = Annotated[
    str | None,
    typer.Option(metavar="tcp://HOST:PORT", help="Build candidates on a Dask cluster, not here."),
]
Cooldown = Annotated[
    float, typer.Option(min=0.0, metavar="SECONDS", help="Pause before each measurement.")
]
Events = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each event, then the result.")
]


def tune(
    model: Model = None,
    target: TargetName = "host",
    trials: Trials = None,
    threads: Threads = None,
    tuning_logs: Logs = Path("tuning_logs"),
    runner: Runner = None,
    ssh: Ssh = None,
    rpc: Rpc = None,
    tracker: Tracker = None,
    key: Key = None,
    builders: Builders = None,
    cooldown: Cooldown = 0.0,
    shape: Shape = None,
    const: Const = None,
    quantize: Quantize = "none",
    calibration: Calibration = None,
    recipe: Recipe = None,
    max_drop: MaxDrop = None,
    validation: Validation = None,
    exact: Exact = False,
    json: Events = False,
    debug: Debug = False,
) -> None:
    """Search schedules for a model's operators; `edgecc build` takes the best from then on."""
    from compiler.tuning import api

    where = _where(runner, ssh, rpc, tracker, key)
    shapes, consts = parse_shapes(shape or []), parse_consts(const or [])
    if model is None:
        model, why = default_model()
        console.note(f"model: {model} ({why})")
    with make_view(json) as view:
        result = api.tune(
            model,
            target,
            trials=trials,
            threads=threads,
            tuning_logs=tuning_logs,
            shapes=shapes,
            consts=consts,
            quantize=quantize,
            calibration=calibration,
            recipe=recipe or "auto",
            max_drop=max_drop,
            validation=validation,
            exact=exact,
            where=where,
            builders=builders,
            cooldown=cooldown,
            notify=view,
        )
    if json:
        console.result(json_module.dumps({"event": "result", **as_json(result)}))
    else:
        _print(result)


def _where(
    runner: str | None,
    ssh: list[str] | None,
    rpc: list[str] | None,
    tracker: str | None,
    key: str | None,
) -> Any:
    from compiler.tuning.api import Where

    if runner not in (None, "local", "emulated"):
        raise EdgeccError(f"--runner {runner}: not known", "emulated is, or leave it out")
    ways = {
        "--runner emulated": runner == "emulated",
        "--ssh": ssh,
        "--rpc": rpc,
        "--tracker": tracker,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise EdgeccError(f"{' and '.join(given)} exclude each other", "give one of them")
    if (tracker is None) != (key is None):
        raise EdgeccError("--tracker and --key belong together", "the key names the kind of board")
    return Where(runner == "emulated", tuple(ssh or ()), tuple(rpc or ()), tracker, key)


def as_json(result: TuneResult) -> dict[str, Any]:
    """The result for machines; times that are not known are null."""
    data = dataclasses.asdict(result)
    for task in data["tasks"]:
        for name in ("default_seconds", "best_seconds"):
            task[name] = task[name] if math.isfinite(task[name]) else None
        task["history"] = [s if math.isfinite(s) else None for s in task["history"]]
    return {**data, "log": str(result.log), "target": result.target.name}


def _print(result: TuneResult) -> None:
    rows = []
    known = [task for task in result.tasks if math.isfinite(task.default_seconds)]
    for task in sorted(known, key=lambda t: -t.calls * t.default_seconds):
        gain = task.default_seconds / task.best_seconds
        share = task.calls * task.default_seconds * 1e3 / result.default_ms
        rows.append(
            [
                task.label,
                task.template,
                f"{share:.1%}",
                f"{task.default_seconds * 1e6:.1f}",
                f"{task.best_seconds * 1e6:.1f}",
                f"{gain:.2f}x",
                str(len(task.history)),
                task.chosen or "-",
            ]
        )
    header = ["operator", "template", "share", "default us", "best us", "gain", "trials", "chosen"]
    console.table(header, rows, right=(2, 3, 4, 5, 6))
    console.result()
    if len(known) < len(result.tasks):
        console.warning_line(
            f"{len(result.tasks) - len(known)} operators could not be measured; --json says why"
        )
    if not known:
        return
    kept, lost = (sum(task.tensorized[i] for task in result.tasks) for i in (0, 1))
    rate = result.trials / result.seconds if result.seconds else 0.0
    console.pairs(
        [
            ("log", str(result.log)),
            ("tasks", f"{len(result.tasks)}, of {result.recalled} the log knew enough"),
            ("trials", f"{result.trials} in {result.seconds:.0f} s, {rate:.1f} a second"),
            *([("tensorised", f"{kept} candidates, {lost} left out")] if kept + lost else []),
            (
                "time",
                f"{result.default_ms:.3f} -> {result.best_ms:.3f} ms "
                f"({result.default_ms / result.best_ms:.3f}x) for these operators",
            ),
        ]
    )
