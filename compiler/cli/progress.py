"""Progress on stderr: a bar with the remaining time on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from compiler.cli.console import note


class Progress:
    """Takes (stage, done, total) calls, as ``compiler.build`` makes them.

    >>> with Progress() as progress:  # doctest: +SKIP
    ...     compiler.build("model.onnx", "host", progress=progress)
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:<24}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                # Results may be printed meanwhile; they must reach stdout as they are.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._show(stage, done, total)
        elif stage != self._stage and not self._quiet:
            seconds = time.monotonic() - self._started
            of = f" ({total})" if total > 1 else ""
            note(f"[{seconds:6.1f} s] {stage}{of}")
        self._stage = stage

    def _show(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(stage, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
