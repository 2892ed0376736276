"""AVX-VNNI: the same instructions in AVX-512's encoding, since Bochs 2.7 models no CPU with it.

That the compiler emits vpdpbusd of 256 bits without AVX-512 is tested in assembly
(tests/schedules/test_intrinsics.py).
"""

from __future__ import annotations

from dataclasses import replace

import compiler
from compiler.package import open_package
from compiler.package.verify import difference, load_golden
from compiler.shipped import DIGITS
from compiler.target import load_target
from tests.bochs.machine import BochsRunner


def test_digits_agree_with_their_golden_data(tmp_path):
    target = replace(load_target("x86_64_avxvnni"), features=("+avx512vl", "+avx512vnni"))
    result = compiler.build(DIGITS, target, tmp_path / "p", quantize="int8", tuning_logs=())
    ran = {op.get("intrinsic") for op in result.receipt["operators"]}
    assert "x86_vnni_8" in ran
    package = open_package(result.path)
    inputs, want = load_golden(package)
    got = BochsRunner(package).verify(inputs, threads=2)
    assert difference(got["logits"], want["logits"]) <= package.manifest["golden"]["tolerance"]
