"""The command line: each command parses, calls the Python API and prints."""

from __future__ import annotations


def main() -> None:
    """Runs the program with ``sys.argv`` and exits: 0, 1 (error), 2 (usage) or 130 (Ctrl-C)."""
    from compiler.cli.app import app

    app(prog_name="edgecc")
