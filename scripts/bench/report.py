"""The result as a table for people and as a chart."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from .engines import ENGINES, Engine
from .results import OURS, Row, by_threads, geometric_mean

# Wide enough for all engines where no terminal sets the width.
PLAIN_WIDTH = 180
# Relative error that float32 in another order does not explain.
APPROXIMATE = 1e-4
# The chart cuts longer bars off and writes their height.
HIGHEST_BAR = 4.0


def print_tables(rows: list[Row], engines: Sequence[type[Engine]]) -> None:
    """One table a number of threads on stdout, then what was not timed."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    for threads, some in by_threads(rows).items():
        console.print(_table(threads, some, engines))
    for line in refusals(rows) + approximations(rows):
        console.print(line, markup=False, soft_wrap=True)


def write_markdown(rows: list[Row], engines: Sequence[type[Engine]], path: Path) -> None:
    """The same as print_tables for a document."""
    from rich import box
    from rich.console import Console

    console = Console(width=PLAIN_WIDTH, highlight=False)
    with console.capture() as captured:
        for threads, some in by_threads(rows).items():
            table = _table(threads, some, engines)
            console.print(table.title)
            table.title, table.box = None, box.MARKDOWN
            for row in table.rows:
                row.end_section = False
            console.print(table)
        console.print()
        for line in refusals(rows) + approximations(rows):
            console.print(f"- {line}", markup=False, soft_wrap=True)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def refusals(rows: list[Row]) -> list[str]:
    """One line for each engine that was not timed on a network, whatever the threads."""
    why: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        for entry in row.entries.values():
            if entry.refused:
                key = (row.model, _title(entry.engine), entry.refused)
                why.setdefault(key, []).append(row.threads)
    return [
        f"not timed: {engine} on {model} ({_counts(threads)}): {reason}"
        for (model, engine, reason), threads in why.items()
    ]


def approximations(rows: list[Row]) -> list[str]:
    """One line for each engine that was timed though its outputs are less exact than usual."""
    worst: dict[tuple[str, str], float] = {}
    for row in rows:
        for entry in row.entries.values():
            if entry.timed and entry.error is not None and entry.error > APPROXIMATE:
                key = (row.model, _title(entry.engine))
                worst[key] = max(entry.error, worst.get(key, 0.0))
    return [
        f"approximate: {engine} on {model}, relative error {error:.1e}"
        for (model, engine), error in worst.items()
    ]


def _table(threads: int, rows: list[Row], engines: Sequence[type[Engine]]):
    from rich.table import Table

    peers = any(engine.name != OURS for engine in engines)
    table = Table(title=f"{_count(threads)}: median (minimum) in ms")
    table.add_column("network", no_wrap=True)
    for engine in engines:
        table.add_column(engine.title, justify="right", no_wrap=True)
    compared = peers and any(engine.name == OURS for engine in engines)
    if compared:
        table.add_column("best peer")
        table.add_column("edgecc / best", justify="right")
        table.add_column("edgecc / ONNX Runtime", justify="right")
    for row in rows:
        cells = [row.model, *(_cell(row, engine.name) for engine in engines)]
        if compared:
            best = row.best_peer
            cells += [_title(best.engine) if best else "", _ratio(row.to_best)]
            cells.append(_ratio(row.to_onnxruntime))
        table.add_row(*cells)
    if compared:
        best_mean = geometric_mean(row.to_best for row in rows)
        ort_mean = geometric_mean(row.to_onnxruntime for row in rows)
        table.add_section()
        blank = [""] * (len(engines) + 1)
        table.add_row("geometric mean", *blank, _ratio(best_mean), _ratio(ort_mean))
    return table


def _cell(row: Row, engine: str) -> str:
    entry = row.entries.get(engine)
    if entry is None:
        return ""
    if not entry.timed:
        return "wrong" if entry.wrong else "failed"
    return f"{_ms(entry.median_ms)} ({_ms(entry.min_ms)})"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _counts(threads: Sequence[int]) -> str:
    return _count(threads[0]) if len(threads) == 1 else f"{'+'.join(map(str, threads))} threads"


def _title(engine: str) -> str:
    return ENGINES[engine].title if engine in ENGINES else engine


def chart_problem() -> str | None:
    """Why no chart can be drawn; None when it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no chart: matplotlib is not installed: pip install matplotlib"
    return None


def write_chart(rows: list[Row], engines: Sequence[type[Engine]], path: Path) -> None:
    """Bars of each engine's median over that of the fastest, one panel a number of threads.

    Args:
        path: of the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_threads(rows)
    models = max(len(some) for some in groups.values())
    figure, panels = pyplot.subplots(
        len(groups),
        1,
        figsize=(max(8.0, 1.3 * models + 1.5), 3.4 * len(groups)),
        squeeze=False,
        layout="constrained",
    )
    width = 0.8 / len(engines)
    for panel, (threads, some) in zip(panels[:, 0], groups.items(), strict=True):
        for index, engine in enumerate(engines):
            offset = (index - (len(engines) - 1) / 2) * width
            heights = [_over_fastest(row, engine.name) for row in some]
            places = [place + offset for place in range(len(some))]
            shown = [min(height, HIGHEST_BAR) for height in heights]
            panel.bar(places, shown, width, label=engine.title)
            for place, height in zip(places, heights, strict=True):
                if height > HIGHEST_BAR:
                    where = {"ha": "center", "va": "top", "rotation": 90, "fontsize": "small"}
                    panel.text(place, HIGHEST_BAR, f"{height:.1f} ", color="white", **where)
        panel.axhline(1.0, color="black", linewidth=0.6)
        panel.set_xticks(range(len(some)), [row.model for row in some], rotation=20, ha="right")
        panel.set_ylabel("time over the fastest's")
        panel.set_title(f"{_count(threads)}, lower is better; no bar: not timed")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(engines))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _over_fastest(row: Row, engine: str) -> float:
    fastest = min((entry.median_ms for entry in row.entries.values() if entry.timed), default=0.0)
    entry = row.timed(engine)
    return entry.median_ms / fastest if entry else 0.0
