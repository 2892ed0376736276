"""Real networks through the importer, compared with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.frontend import import_model
from tests.conformance.host import run_on_host
from tests.real_models import NAMES, real_model


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the largest magnitude of the reference."""
    difference = np.abs(result.astype(np.float64) - reference.astype(np.float64))
    return float(difference.max() / max(np.abs(reference.astype(np.float64)).max(), 1e-30))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_matches_onnxruntime(name: str) -> None:
    model = real_model(name)
    imported = import_model(model.path, model.shapes, model.consts)
    assert [info.name for info in imported.inputs] == list(model.feeds)
    results = run_on_host(imported, list(model.feeds.values()))
    for info, result, reference in zip(imported.outputs, results, model.reference(), strict=True):
        assert result.shape == reference.shape == info.shape
        assert relative_error(result, reference) <= 1e-4, info.name
