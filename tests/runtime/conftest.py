"""Two toy packages for this host, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.package import write_package
from compiler.target import load_target
from tests.package import kernels


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    host = load_target("host")
    folder = tmp_path_factory.mktemp("toy") / "p"
    return write_package(kernels.model(host), host, folder, golden=kernels.golden())


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second model with the same kernel names, which are private to each library."""
    host = load_target("host")
    folder = tmp_path_factory.mktemp("other") / "p"
    return write_package(kernels.model(host, "other"), host, folder)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its third operator fails in the last parallel task."""
    host = load_target("host")
    folder = tmp_path_factory.mktemp("broken") / "p"
    return write_package(kernels.model(host, "broken", fail=True), host, folder)


@pytest.fixture(scope="session")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Promises less kernel workspace than its first operator takes."""
    host = load_target("host")
    folder = tmp_path_factory.mktemp("tight") / "p"
    return write_package(kernels.model(host, "tight", scratch_bytes=2048), host, folder)
