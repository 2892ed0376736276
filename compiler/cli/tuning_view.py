"""What people see while the tuner works: a live table, plain lines, or events as JSON."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from types import TracebackType
from typing import Any

from compiler.cli import console

LINE_SECONDS = 10.0  # between plain lines
MAX_ROWS = 20


def make_view(as_json: bool) -> View:
    """The view for where the output goes."""
    if as_json:
        return JsonView()
    return LiveView() if sys.stderr.isatty() else View()


class View:
    """Plain lines on standard error, one every ten seconds, for logs of CI."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.trials = 0
        self._started = self._last = time.monotonic()
        self._start: dict[str, Any] = {}
        self._left: int | None = None  # trials

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:
            console.note(
                "the log keeps every finished measurement; the same command goes on from there"
            )

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "repaired":
            for line in event["lines"]:
                console.note(line)
        elif kind == "note":
            console.note(event["text"])
        elif kind == "start":
            self._begin(event)
        else:
            self._update(event)

    def _begin(self, event: dict[str, Any]) -> None:
        self._start = event
        self.tasks = [
            {**task, "trials": 0, "best": math.inf, "default": math.inf} for task in event["tasks"]
        ]
        known = f", the log knows enough of {event['recalled']}" if event["recalled"] else ""
        console.note(
            f"{len(self.tasks)} operators to tune for {event['target']}{known}; measured on "
            f"{', '.join(event['devices'])}, built by {event['builders']}"
        )

    def _update(self, event: dict[str, Any]) -> None:
        self._left = event["trials_left"]
        self.trials += event["event"] in ("measured", "skipped")
        self.tasks[event["task"]] |= {k: event[k] for k in ("trials", "best", "default")}
        self.show()

    @property
    def seconds(self) -> float:
        """Since the tuner started."""
        return time.monotonic() - self._started

    def summary(self) -> str:
        """Time of the model's operators, and how fast the work goes."""
        known = [t for t in self.tasks if math.isfinite(t["best"])]
        best = sum(t["calls"] * t["best"] for t in known) * 1e3
        default = sum(t["calls"] * min(t["default"], 1e9) for t in known) * 1e3
        gain = f"{default / best:.3f}x" if best else "-"
        rate = self.trials / self.seconds
        return (
            f"{self.trials} trials, {rate:.1f}/s, {len(known)} of {len(self.tasks)} operators: "
            f"{default:.3f} -> {best:.3f} ms ({gain}){self._remaining(rate)}"
        )

    def _remaining(self, rate: float) -> str:
        if self._left is None or not rate:
            return ""
        return f", about {self._left / rate:.0f} s left"

    def show(self) -> None:
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            console.note(f"[{self.seconds:6.0f} s] {self.summary()}")


class JsonView(View):
    """A line of JSON for each event on standard output."""

    def __call__(self, event: dict[str, Any]) -> None:
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in event.items()
        }
        print(json.dumps(plain), flush=True)


class LiveView(View):
    """A table that follows the work, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Any = None

    def __enter__(self) -> LiveView:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        super().__exit__(kind, error, trace)

    def show(self) -> None:
        with contextlib.suppress(ZeroDivisionError):
            self._live.update(self._table())

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(caption=self.summary(), caption_justify="left", box=None)
        table.add_column("operator")
        for name in ("share", "best us", "gain", "GFLOPS", "% peak", "trials"):
            table.add_column(name, justify="right")
        known = [t for t in self.tasks if math.isfinite(t["best"])]
        total = sum(t["calls"] * t["best"] for t in known)
        for task in sorted(known, key=lambda t: -t["calls"] * t["best"])[:MAX_ROWS]:
            gflops = 2 * task["macs"] / task["best"] / 1e9
            table.add_row(
                f"{task['label']} x{task['calls']}",
                f"{task['calls'] * task['best'] / total:.1%}",
                f"{task['best'] * 1e6:.1f}",
                f"{task['default'] / task['best']:.2f}x",
                f"{gflops:.1f}" if task["macs"] else "-",
                f"{gflops / self._start['peak_gflops']:.0%}" if task["macs"] else "-",
                str(task["trials"]),
            )
        return table
