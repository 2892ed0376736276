"""The command line: each command parses, calls the Python API and prints."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Runs the program with ``sys.argv`` and exits: 0, 1 (error), 2 (usage) or 130 (Ctrl-C)."""
    from compiler.cli.app import app

    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="edgecc")


def _terminate(number: int, frame: FrameType | None) -> None:
    """Leaves by an exception, so that half-written packages are removed on the way."""
    sys.exit(128 + number)
