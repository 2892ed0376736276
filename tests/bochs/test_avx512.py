"""AVX-512 on any machine: packages run on processors that Bochs models."""

import pytest

from compiler.api import build
from compiler.errors import EdgeccError
from compiler.package import entry, open_package
from compiler.package.manifest import Package
from compiler.package.verify import difference, load_golden
from compiler.shipped import DIGITS
from tests.bochs.machine import BochsRunner


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digit classifier for a target, built on first use."""
    folder = tmp_path_factory.mktemp("digits")

    def package(target: str) -> Package:
        if not (folder / target).exists():
            build(DIGITS, target, folder / target)
        return open_package(folder / target)

    return package


@pytest.mark.parametrize("target", ["x86_64_v4", "x86_64_vnni"])
def test_digits_agree_with_their_golden_data(target, digits):
    package = digits(target)
    inputs, want = load_golden(package)
    got = BochsRunner(package).verify(inputs, threads=4)
    assert difference(got["logits"], want["logits"]) <= package.manifest["golden"]["tolerance"]


@pytest.mark.parametrize(
    ("target", "cpu", "missing"),
    [
        ("x86_64_v4", "broadwell_ult", "avx512bw"),
        ("x86_64_vnni", "corei7_skylake_x", "avx512vnni"),
    ],
)
def test_a_lesser_cpu_is_refused(target, cpu, missing, digits):
    package = digits(target)
    with pytest.raises(EdgeccError, match=f"this CPU has no {missing}"):
        BochsRunner(package, cpu).verify(load_golden(package)[0], threads=1)


def test_the_kernels_are_avx512(monkeypatch, tmp_path):
    """Without its own check of the CPU, a library meets an instruction that is not there."""
    monkeypatch.setattr(entry, "required_features", lambda target: ())
    build(DIGITS, "x86_64_v4", tmp_path / "unchecked")
    package = open_package(tmp_path / "unchecked")
    inputs, _ = load_golden(package)
    BochsRunner(package).verify(inputs, threads=1)
    with pytest.raises(EdgeccError, match="crashed with signal 4"):
        BochsRunner(package, "broadwell_ult").verify(inputs, threads=1)
