"""edgecc: ONNX models to small native libraries for one CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.api import BuildResult, build
    from compiler.errors import EdgeccError
    from compiler.runtime.loader import Model
    from compiler.tuning.api import TuneResult, tune

__version__ = "0.1.0"
__all__ = ["BuildResult", "EdgeccError", "TuneResult", "build", "load", "tune"]


def load(path: str | Path, threads: int = 0) -> Model:
    """Loads a package folder, or the library in it, for use from Python.

    Args:
        threads: 0 for the default, the target's cores.
    Raises:
        EdgeccError: no such package, or this machine can't run it.
    """
    from compiler.runtime.loader import Model

    return Model(path, threads)


def __getattr__(name: str) -> Any:
    """`import compiler` stays instant; what it offers is imported at first use."""
    if name in ("build", "BuildResult"):
        from compiler import api

        return getattr(api, name)
    if name in ("tune", "TuneResult"):
        from compiler.tuning import api as tuning

        return getattr(tuning, name)
    if name == "EdgeccError":
        from compiler.errors import EdgeccError

        return EdgeccError
    raise AttributeError(f"module 'compiler' has no attribute '{name}'")
