"""A log as one HTML page that needs nothing else: what was tried, what won, and by how much."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm import s_tir, tirx
from tvm_ffi import structural_walk

from compiler.codegen.work import multiply_accumulates
from compiler.errors import EdgeccError
from compiler.target import Target, load_target
from compiler.tuning.log import Record, TuningLog
from compiler.tuning.lookup import best_record
from compiler.tuning.tasks import offered, read_workload

RUNNERS_UP = 5
_CHART = (360, 90)  # pixels

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1b1f24; background: #fff }
table { border-collapse: collapse } td, th { padding: .2rem .7rem .2rem 0; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
section { border-top: 1px solid #d0d7de; padding: .6rem 0 }
svg { background: #f6f8fa; border-radius: 4px } polyline { fill: none; stroke: #0969da;
stroke-width: 1.5 } line { stroke: #8c959f; stroke-dasharray: 4 3 } circle { fill: #8c959f }
.row { display: flex; gap: 2rem; flex-wrap: wrap } .dim { color: #57606a }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 }
svg { background: #161b22 } section { border-color: #30363d } .dim { color: #8b949e } }
"""


@dataclass(frozen=True)
class Operator:
    """What the log knows of one workload.

    Args:
        names: of the values of a decision.
        records: in the order in which they were measured.
        default: values of the template's own decision.
        best: what a build takes.
    """

    title: str
    template: str
    macs: int
    names: tuple[str, ...]
    records: Sequence[Record]
    default: tuple[int, ...]
    best: Record

    @property
    def default_seconds(self) -> float:
        """By its latest measurement; infinite where it never succeeded."""
        times = [r.best for r in self.records if r.values == self.default and r.seconds]
        return times[-1] if times else math.inf


def write_report(folder: Path, page: Path, target: Target | None = None) -> int:
    """Write the page for one log; returns the number of operators in it.

    Args:
        folder: of the log, named after its target.
        target: needed where the log is not of a shipped one.

    Raises:
        EdgeccError: there is no log, or the page can't be written.
    """
    log = TuningLog(folder)
    if not log.records:
        raise EdgeccError(f"{folder} holds no records", "name the folder of one target's log")
    target = target or load_target(folder.name)
    operators = [
        operator
        for index in dict.fromkeys(record.workload for record in log.records)
        if (operator := _operator(log, index, target)) is not None
    ]
    operators.sort(key=lambda o: -o.best.best)
    try:
        page.write_text(_page(folder, log, target, operators), encoding="utf-8")
    except OSError as error:
        raise EdgeccError(f"can't write {page}: {error.strerror}") from error
    return len(operators)


def _operator(log: TuningLog, index: int, target: Target) -> Operator | None:
    records = log.of(log.keys[index])
    best = best_record(log, records)
    if best is None:
        return None
    func = read_workload(log.keys[index], log.module(index))
    template, space = offered(func, target)
    if space is None:
        return None
    return Operator(
        _title(func),
        template,
        multiply_accumulates(func),
        space.names,
        records,
        space.rows[0],
        best,
    )


def _title(func: tirx.PrimFunc) -> str:
    """The blocks' names and the shapes of the arguments."""
    names: list[str] = []

    def visit(block: s_tir.SBlock) -> None:
        name = block.name_hint.removeprefix("T_")
        if name.startswith("winograd"):
            name = "winograd"  # has seven blocks
        if name not in ("root", *names):
            names.append(name)

    structural_walk(func.body, [(s_tir.SBlock, visit)])
    shapes = ["x".join(str(int(d)) for d in p.ty.shape) for p in func.params]
    return f"{' + '.join(names)} ({', '.join(shapes[:-1])} -> {shapes[-1]})"


def _page(folder: Path, log: TuningLog, target: Target, operators: Sequence[Operator]) -> str:
    faster = [o for o in operators if o.best.best < o.default_seconds < math.inf]
    sessions = "".join(
        f"<tr><td>{f.identity}</td><td>{html.escape(f.runner)}</td><td class=dim>"
        + html.escape(", ".join(f"{k} {v}" for k, v in f.facts.items() if k != "caches"))
        + "</td></tr>"
        for f in log.fingerprints.values()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Tuning {target.name}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(target.name)}</h1>"
        f"<p>{html.escape(target.description)}. {len(operators)} operators, {len(log.records)} "
        f"records in {html.escape(folder.name)}; {len(faster)} of the operators have a decision "
        "faster than the template's default.</p>"
        f"<h2>Sessions</h2><table>{sessions}</table><h2>Operators</h2>{_table(operators)}"
        + "".join(_section(i, o, log) for i, o in enumerate(operators))
        + "</html>\n"
    )


def _table(operators: Sequence[Operator]) -> str:
    rows = "".join(
        f"<tr><td><a href=#o{i}>{html.escape(o.title.partition(' (')[0])}</a></td>"
        f"<td>{o.template}</td><td class=n>{_us(o.default_seconds)}</td>"
        f"<td class=n>{_us(o.best.best)}</td><td class=n>{_gain(o)}</td>"
        f"<td class=n>{len(o.records)}</td></tr>"
        for i, o in enumerate(operators)
    )
    head = "".join(
        f"<th class={c}>{t}</th>"
        for t, c in (("operator", "t"), ("template", "t"), ("default us", "n"), ("best us", "n"),
                     ("gain", "n"), ("trials", "n"))
    )  # fmt: skip
    return f"<table><tr>{head}</tr>{rows}</table>"


def _section(index: int, operator: Operator, log: TuningLog) -> str:
    best, default = operator.best, operator.default_seconds
    gflops = 2 * operator.macs / best.best / 1e9
    speed = f", {gflops:.1f} GFLOPS" if operator.macs else ""
    if best.values == operator.default:
        why = "the template's own decision is the fastest that was measured"
    else:
        why = f"{_gain(operator)} the speed of the template's own decision"
    emulated = log.fingerprints[best.fingerprint].emulated
    how = "estimated from counts under emulation" if emulated else "measured"
    return (
        f"<section id=o{index}><h3>{html.escape(operator.title)}</h3><div class=row>"
        f"{_curve(operator)}<div><p>{_us(default)} &rarr; {_us(best.best)} us{speed}, {how}.<br>"
        f"Chosen: {html.escape(_decision(operator, best.values))}, because it is {why}.</p>"
        f"{_runners_up(operator)}</div></div></section>"
    )


def _runners_up(operator: Operator) -> str:
    latest = {r.values: r.best for r in operator.records if r.seconds}
    rows = sorted(latest.items(), key=lambda item: item[1])[:RUNNERS_UP]
    return "<table>" + "".join(
        f"<tr><td class=n>{_us(seconds)} us</td><td>{html.escape(_decision(operator, values))}"
        f"{' (default)' if values == operator.default else ''}</td></tr>"
        for values, seconds in rows
    ) + "</table>"  # fmt: skip


def _decision(operator: Operator, values: tuple[int, ...]) -> str:
    if len(values) != len(operator.names):
        return str(values)
    return ", ".join(f"{n} {v}" for n, v in zip(operator.names, values, strict=True))


def _curve(operator: Operator) -> str:
    """Best so far over trials, on a logarithmic scale; dots are single trials."""
    width, height = _CHART
    times = [record.best for record in operator.records]
    finite = [t for t in times if math.isfinite(t)]
    low, high = math.log(min(finite)), math.log(max(finite)) + 1e-9
    step = width / max(1, len(times) - 1)

    def point(i: int, seconds: float) -> str:
        y = height - 8 - (math.log(seconds) - low) / (high - low) * (height - 16)
        return f"{i * step:.1f},{y:.1f}"

    best, line, dots = math.inf, [], []
    for i, seconds in enumerate(times):
        best = min(best, seconds)
        if math.isfinite(best):
            line.append(point(i, best))
        if math.isfinite(seconds):
            x, _, y = point(i, seconds).partition(",")
            dots.append(f"<circle cx={x} cy={y} r=1.6 />")
    return (
        f"<svg width={width} height={height} role=img aria-label='best so far over trials'>"
        f"{''.join(dots)}<polyline points='{' '.join(line)}' /></svg>"
    )


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}" if math.isfinite(seconds) else "-"


def _gain(operator: Operator) -> str:
    gain = operator.default_seconds / operator.best.best
    return f"{gain:.2f}x" if math.isfinite(gain) else "-"
