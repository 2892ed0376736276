"""The digit classifier's packages, built once a target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import compiler
from compiler.package import write_package
from compiler.target import load_target

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "compiler" / "data" / "digits.onnx"


def expected(image: np.ndarray) -> np.ndarray:
    """Logits of ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image})[0]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The package folder for a target name."""
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            folder = tmp_path_factory.mktemp("digits") / f"digits-{name}"
            built[name] = compiler.build(MODEL, name, folder).path
        return built[name]

    return build


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, from C kernels."""
    from tests.package import kernels

    host = load_target("host")
    return write_package(kernels.model(host), host, tmp_path_factory.mktemp("toy") / "p")
