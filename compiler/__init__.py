"""edgecc: ONNX models to small native libraries for one CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.runtime.loader import Model

__version__ = "0.1.0"


def load(path: str | Path, threads: int = 0) -> Model:
    """Loads a package folder, or the library in it, for use from Python.

    Args:
        threads: 0 for the default, the target's cores.
    Raises:
        EdgeccError: no such package, or this machine can't run it.
    """
    from compiler.runtime.loader import Model

    return Model(path, threads)
