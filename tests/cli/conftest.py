"""Packages that the tests of the commands share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import compiler
from compiler.shipped import DIGITS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def host_package(tmp_path_factory) -> Path:
    return compiler.build(DIGITS, "host", tmp_path_factory.mktemp("host") / "package").path


@pytest.fixture(scope="session")
def foreign_package(tmp_path_factory) -> Path:
    """For a CPU that needs an emulator here."""
    target = "riscv64" if os.uname().machine != "riscv64" else "arm_cortex_a72"
    out = tmp_path_factory.mktemp("foreign") / "package"
    return compiler.build(DIGITS, target, out).path


@pytest.fixture
def edgecc(tmp_path):
    """Runs the program in a process of its own, in an empty folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "compiler", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
