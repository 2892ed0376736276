"""Packages built once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.package import write_package
from compiler.target import Target, load_target
from tests.package import kernels


@pytest.fixture(scope="session")
def host() -> Target:
    return load_target("host")


@pytest.fixture(scope="session")
def package_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The toy package for a target name, built on first use."""
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            target = load_target(name)
            folder = tmp_path_factory.mktemp("packages") / f"toy-{name}"
            built[name] = write_package(
                kernels.model(target), target, folder, golden=kernels.golden()
            )
        return built[name]

    return build
