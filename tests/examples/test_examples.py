"""The examples do what they say, for this machine and for an emulated one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler.package import verify_package
from compiler.package.cpu import host_arch
from compiler.package.link import cache_dir
from compiler.target import load_target
from tests.examples.conftest import ROOT, expected

EXAMPLES = ROOT / "examples"


def read_pgm(path: Path) -> np.ndarray:
    numbers = [int(word) for word in path.read_text().split()[1:]]
    image = np.array(numbers[3:], np.float32) / np.float32(numbers[2])
    return image.reshape(1, 1, 28, 28)


def build_c(package: Path, *triple: str) -> Path:
    environment = dict(
        os.environ, PYTHON=sys.executable, ZIG_GLOBAL_CACHE_DIR=str(cache_dir() / "zig")
    )
    script = EXAMPLES / "c" / "build.sh"
    subprocess.run([script, package, *triple], check=True, env=environment)
    return package / "digits"


def check_output(done: subprocess.CompletedProcess[str], digit: int) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digits for ")
    assert lines[1] == f"digit: {digit} (two threads agree)"
    assert lines[2] == "wrong dtype: error 2: input 'image' is uint8, the model wants float32"


@pytest.mark.parametrize(("image", "digit"), [("seven", 7), ("three", 3)])
def test_c_example_on_this_machine(digits, toy, image, digit):
    program = build_c(digits("host"))
    command = [program, EXAMPLES / "c" / f"{image}.pgm", toy / "libtoy.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    check_output(done, digit)
    assert done.stdout.splitlines()[3] == "beside it: toy (host), status 0"


def test_c_example_for_aarch64_under_qemu(digits):
    target = load_target("arm_cortex_a72")
    assert target.emulator is not None
    command: list[str | Path] = []
    if host_arch() != "aarch64":
        if shutil.which("qemu-aarch64") is None or not Path(target.emulator.sysroot).is_dir():
            pytest.skip(f"needs {' and '.join(target.emulator.packages)}")
        command = [*target.emulator.command, "-L", target.emulator.sysroot]
    package = digits("arm_cortex_a72")
    program = build_c(package, "aarch64-linux-gnu.2.28")
    command += [program, EXAMPLES / "c" / "seven.pgm", package / "libdigits.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    check_output(done, 7)
    assert done.stdout.splitlines()[3] == "beside it: digits (arm_cortex_a72), status 0"


def test_c_example_says_how_it_is_used(digits):
    program = build_c(digits("host"))
    done = subprocess.run([program, "/dev/null"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: digits IMAGE.pgm" in done.stderr


def device_module():
    spec = importlib.util.spec_from_file_location(
        "edgecc_device", EXAMPLES / "python" / "edgecc_device.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_device_file_matches_onnx_runtime(digits):
    device = device_module()
    image = read_pgm(EXAMPLES / "c" / "seven.pgm")
    with device.Model(str(digits("host") / "libdigits.so"), threads=1) as model:
        for value in (image, image.tobytes(), image.reshape(-1).tolist()):
            (logits,) = model.run(value)
            np.testing.assert_allclose(logits, expected(image), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="got float64"):
            model.run(image.astype(np.float64))
        with pytest.raises(ValueError, match="got 3 bytes"):
            model.run(b"abc")
        with pytest.raises(ValueError, match="got 2 numbers"):
            model.run([1, 2])
        with pytest.raises(ValueError, match="1 inputs wanted"):
            model.run()
    with pytest.raises(RuntimeError, match="closed"):
        model.run(image)


def test_device_file_needs_only_the_standard_library(digits, tmp_path):
    image = read_pgm(EXAMPLES / "c" / "three.pgm")
    (tmp_path / "three.bin").write_bytes(image.tobytes())
    library = digits("host") / "libdigits.so"
    script = EXAMPLES / "python" / "edgecc_device.py"
    # -I -S: no site-packages, so NumPy is not there.
    command = [sys.executable, "-I", "-S", script, library, tmp_path / "three.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digits for host: [image float32 [1, 1, 28, 28]]")
    logits = [float(word) for word in lines[1].removeprefix("logits: ").split()]
    np.testing.assert_allclose(logits, expected(image)[0], rtol=2e-3, atol=1e-3)
    assert lines[2].startswith("median ")


@pytest.mark.parametrize("name", ["host", "arm_cortex_a72", "arm_cortex_a7", "riscv64"])
def test_digits_verify(digits, name):
    emulator = load_target(name).emulator
    if emulator and shutil.which(emulator.command[0]) is None:
        pytest.skip(f"{emulator.command[0]} is not installed")
    result = verify_package(digits(name))
    assert result.passed, str(result)
