"""``edgecc estimate``."""

import json
import shutil

import pytest

from compiler.estimate import CLASSES

needs_emulator = pytest.mark.skipif(
    not shutil.which("qemu-riscv64"), reason="needs the Debian package qemu-user"
)


@needs_emulator
def test_counts_without_a_fit(edgecc, foreign_package):
    done = edgecc("estimate", foreign_package)
    assert done.returncode == 0, done.stderr
    receipt = json.loads((foreign_package / "receipt.json").read_text())
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["#", "OPERATOR", "TEMPLATE", "INSTR", "PER"]
    assert "MS" not in lines[0].split()
    assert lines[len(receipt["operators"]) + 1].split()[0] == "total"
    assert "none: nobody has fitted this CPU" in done.stdout
    assert "What this can't know" in done.stdout


@needs_emulator
def test_json(edgecc, foreign_package):
    done = edgecc("estimate", foreign_package, "--json")
    report = json.loads(done.stdout)
    receipt = json.loads((foreign_package / "receipt.json").read_text())
    assert [o["label"] for o in report["operators"]] == [o["label"] for o in receipt["operators"]]
    assert list(report["classes"]) == list(CLASSES)
    assert sum(report["classes"].values()) == report["instructions"]
    assert sum(o["instructions"] for o in report["operators"]) == report["instructions"]
    assert (report["ms"], report["error_ms"], report["fit"]) == (None, None, None)
    assert report["threads"] == 1
    assert report["unknown"]


@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs the package qemu-user")
def test_milliseconds(edgecc):
    built = edgecc("build", "--target", "arm_cortex_a53", "-o", "package", "--no-verify")
    assert built.returncode == 0, built.stderr
    text = edgecc("estimate", "package").stdout
    assert " ms +/- " in text
    assert "at 1.4 GHz" in text
    assert "Raspberry Pi 3 B+" in text
    assert "mean error 13.7 %" in text


def test_what_can_not_be_emulated(edgecc, host_package):
    done = edgecc("estimate", host_package)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing emulates its target host" in done.stderr
    assert "hint: `bench`" in done.stderr


def test_without_the_emulator(edgecc, foreign_package, tmp_path):
    done = edgecc("estimate", foreign_package, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not installed" in done.stderr
    assert "hint: apt-get install qemu-user" in done.stderr


def test_a_wrong_target(edgecc, foreign_package):
    done = edgecc("estimate", foreign_package, "--target", "x86_64_v3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--target x86_64_v3 is x86_64" in done.stderr
