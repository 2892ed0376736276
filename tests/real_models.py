"""Real models for tests: a path with bindings and inputs, or a skip that says how to get it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from scripts.modelzoo.registry import default_cache
from scripts.modelzoo.store import is_present, path_of
from scripts.modelzoo.zoo import MODELS

NAMES = tuple(MODELS)


@dataclass(frozen=True)
class RealModel:
    """A fetched model.

    Args:
        shapes: for ``import_model(path, shapes=..., consts=...)``.
        feeds: seeded sample inputs, without those in ``consts``; ONNX Runtime wants both.
    """

    name: str
    path: Path
    shapes: dict[str, tuple[int, ...]]
    consts: dict[str, np.ndarray]
    feeds: dict[str, np.ndarray]

    def reference(self) -> list[np.ndarray]:
        """ONNX Runtime's outputs for ``feeds``, in the graph's order."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        session = onnxruntime.InferenceSession(
            str(self.path), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {**self.feeds, **self.consts})


def real_model(name: str, seed: int = 0) -> RealModel:
    """The model ``name`` of scripts/modelzoo/zoo.py; skips the test if it was not fetched."""
    if not _present(name):
        pytest.skip(f"{name} is absent: python scripts/fetch_models.py {name}")
    model = MODELS[name]
    path = path_of(name, default_cache())
    return RealModel(name, path, dict(model.shapes), dict(model.consts), model.inputs(seed))


@cache
def _present(name: str) -> bool:
    return is_present(name, default_cache())
