"""What is not Python is in the wheel as well, and found there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.bench.suite import write_network

ROOT = Path(__file__).parents[1]
SOURCES = ("compiler", "schedules", "targets", "tuning_logs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--quiet"], cwd=copy, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = copy.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_every_file_is_in_the_wheel(installed):
    files = [p for name in SOURCES for p in (ROOT / name).rglob("*.*") if p.is_file()]
    wanted = {p.relative_to(ROOT) for p in files if "__pycache__" not in p.parts}
    found = {p.relative_to(installed) for p in installed.rglob("*.*")}
    # Logs of one's own in a checkout are nobody else's.
    own = {p for p in wanted if p.parts[0] == "tuning_logs" and len(p.parts) > 2}
    assert wanted - own <= found
    assert not own & found


def test_the_wheel_builds_with_its_targets_and_records(installed, tmp_path):
    network = write_network("ds_cnn", tmp_path / "network") / "model.onnx"
    options = ["--target", "x86_64_v3", "--no-verify", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "compiler", "build", str(network), "-o", "package", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert json.loads(done.stdout)["tuned"]["measured"] > 0.9
