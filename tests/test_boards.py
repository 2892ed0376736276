"""The table of estimates for boards: its rows and its refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from scripts.bench import boards


@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs the Debian package qemu-user")
def test_rows(capsys, tmp_path):
    out = tmp_path / "rows.json"
    names = ["arm_cortex_a72", "riscv_sifive_u74"]
    code = boards.main(["--models", "ds_cnn", "--targets", *names, "--json", "--out", str(out)])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert code == 0
    assert rows == json.loads(out.read_text())["rows"]
    assert [row["target"] for row in rows] == names
    pi, vision_five = rows
    assert pi["instructions"] < pi["macs"] < vision_five["instructions"]
    assert pi["ms"] > 0
    assert vision_five["ms"] is None  # no fit for this CPU


def test_unknown_target(capsys):
    assert boards.main(["--models", "ds_cnn", "--targets", "arm_cortex_a73"]) == 1
    text = capsys.readouterr().err
    assert "arm_cortex_a73" in text
    assert "hint:" in text
