"""bfloat16 on x86: loops, layouts and packages, with its two instructions done by others.

Bochs 2.7 models no CPU with AVX512_BF16. That the compiler emits vdpbf16ps and vcvtneps2bf16 is
tested in assembly (tests/schedules/test_intrinsics.py); what these do is Intel's word.
"""

import pytest

import compiler
from compiler.codegen import llvm_functions
from compiler.package import entry, open_package
from tests.bochs.machine import BochsRunner
from tests.quantize.test_bfloat16 import check_products, products

TARGET = "x86_64_bf16"
# Of the two halves of each lane, as numbers of float32.
DOT = """
define <L x float> @NAME(<L x float> %s, <W x i16> %a, <W x i16> %b) alwaysinline {
  %x = bitcast <W x i16> %a to <L x i32>
  %y = bitcast <W x i16> %b to <L x i32>
  %xh = and <L x i32> %x, splat (i32 -65536)
  %yh = and <L x i32> %y, splat (i32 -65536)
  %xl = shl <L x i32> %x, splat (i32 16)
  %yl = shl <L x i32> %y, splat (i32 16)
  %x1 = bitcast <L x i32> %xh to <L x float>
  %y1 = bitcast <L x i32> %yh to <L x float>
  %x0 = bitcast <L x i32> %xl to <L x float>
  %y0 = bitcast <L x i32> %yl to <L x float>
  %p1 = fmul <L x float> %x1, %y1
  %t = fadd <L x float> %s, %p1
  %p0 = fmul <L x float> %x0, %y0
  %r = fadd <L x float> %t, %p0
  ret <L x float> %r
}
"""
# To nearest, ties to even, of finite numbers.
ROUND = """
define <L x i16> @NAME(<L x float> %x) alwaysinline {
  %b = bitcast <L x float> %x to <L x i32>
  %h = lshr <L x i32> %b, splat (i32 16)
  %o = and <L x i32> %h, splat (i32 1)
  %c = add <L x i32> %b, splat (i32 32767)
  %d = add <L x i32> %c, %o
  %e = lshr <L x i32> %d, splat (i32 16)
  %r = trunc <L x i32> %e to <L x i16>
  ret <L x i16> %r
}
"""


def by_others(name: str) -> str:
    """The definition of one of our functions without AVX512_BF16."""
    kind, lanes = name.removeprefix(llvm_functions.PREFIX).rsplit("_", 1)
    text = {"dpbf16ps": DOT, "to_bfloat16": ROUND}[kind].replace("@NAME", f"@{name}")
    if lanes == "1":
        text = text.replace("<L x ", "").replace(">", "").replace("splat (i32 ", "(")
        return text.replace("(32767)", "32767").replace("(16)", "16").replace("(1)", "1")
    return text.replace("<W x", f"<{2 * int(lanes)} x").replace("<L x", f"<{lanes} x")


@pytest.fixture
def emulated(monkeypatch):
    """Libraries that neither have nor ask for AVX512_BF16."""
    required = entry.required_features
    monkeypatch.setattr(llvm_functions, "definition", by_others)
    monkeypatch.setattr(
        entry,
        "required_features",
        lambda target: tuple(f for f in required(target) if f != "avx512bf16"),
    )


def test_products_are_within_the_bound_of_eight_bits(emulated, tmp_path):
    path = products(tmp_path / "m.onnx")
    result = compiler.build(
        path, TARGET, tmp_path / "p", quantize="bfloat16", verify=False, tuning_logs=()
    )
    rows = [r for r in result.receipt["operators"] if r["macs"]]
    assert {(r["executed_dtype"], r["intrinsic"]) for r in rows} == {("bfloat16", "x86_dpbf16_16")}
    package = open_package(result.path)
    check_products(path, package, BochsRunner(package))
