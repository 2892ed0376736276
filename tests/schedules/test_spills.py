"""Inner loops keep what they compute in registers, and mostly multiply and accumulate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tvm import s_tir, te, tirx

from compiler.target import load_target
from tests import kernels
from tests.schedules.inner_loop_cases import (
    CASES,
    RELOADS,
    TARGETS,
    hot,
    reloads,
    spills,
)
from tests.schedules.inner_loops import inner_loops

# What part of the instructions must multiply. SSE has no fused multiply-add.
FLOORS = {
    "x86_64": 0.22,
    "x86_64_v3": 0.5,
    "x86_64_v4": 0.55,
    "arm_cortex_a53": 0.6,
    "arm_cortex_a72": 0.58,
    "arm_cortex_a76": 0.58,
    "arm_cortex_a7": 0.38,
    "riscv64": 0.57,
    "riscv_sifive_u74": 0.57,
    "riscv_spacemit_x60": 0.77,
    "riscv_sifive_x280": 0.73,
}
# Depthwise convolutions load an input for each multiply-accumulate or two.
DEPTHWISE_FLOORS = {
    "riscv64": 0.46,
    "riscv_sifive_u74": 0.49,
    "riscv_spacemit_x60": 0.43,
    "riscv_sifive_x280": 0.43,
}


HOT = ("conv_3x3_stride_2", "conv_1x1", "depthwise_3x3", "matmul", "attention_scores")


# The other targets differ from one of these in their tiles, hardly in their instructions.
QUICK = (
    "x86_64_v3",
    "x86_64_v4",
    "arm_cortex_a72",
    "arm_cortex_a7",
    "riscv64",
    "riscv_spacemit_x60",
)


def targets() -> list[Any]:
    """All targets; some are for the full run."""
    return [pytest.param(t, marks=[] if t in QUICK else [pytest.mark.slow]) for t in TARGETS]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", targets())
def test_inner_loops_leave_the_stack_alone(target, case):
    """Nothing that a loop computes is stored there.

    What was only loaded (inputs, weights, constants, addresses) may come from the stack, but no
    more often than is known: where there is more of it than registers, it has to come from
    somewhere.
    """
    loops = CASES[case].loops(load_target(target))
    assert spills(loops) == ""
    assert reloads(loops) <= json.loads(RELOADS.read_text())[target].get(case, 0)


@pytest.mark.parametrize("case", HOT)
@pytest.mark.parametrize("target", targets())
def test_inner_loops_mostly_multiply(target, case):
    floors = FLOORS | DEPTHWISE_FLOORS if case.startswith("depthwise") else FLOORS
    assert hot(CASES[case].loops(load_target(target))).share >= floors[target]


def tall_tile(rows: int, lanes: int) -> tirx.PrimFunc:
    """left^T x right with all rows at once in registers: k, then [rows, lanes] unrolled."""
    left = te.placeholder((256, rows), name="left")
    right = te.placeholder((256, lanes), name="right")
    k = te.reduce_axis((0, 256), name="k")
    result = te.compute(
        (rows, lanes), lambda i, j: te.sum(left[k, i] * right[k, j], axis=k), name="result"
    )
    schedule = s_tir.Schedule(te.create_prim_func([left, right, result]))
    block = schedule.get_sblock("result")
    schedule.cache_write(block, 0, "local")
    row, lane, step = schedule.get_loops(block)
    schedule.reorder(step, row, lane)
    schedule.unroll(row)
    schedule.vectorize(lane)
    schedule.decompose_reduction(block, step)
    return schedule.mod["main"]


@pytest.mark.parametrize("target", targets())
def test_spills_are_seen(target):
    target = load_target(target)
    lanes = max(target.vector.bits // 32, 1)
    fits, spilling = (
        inner_loops(kernels.assembly(tall_tile(rows, lanes), target), target.arch)
        for rows in (4, 48)
    )
    assert fits
    assert spills(fits) == ""
    assert spills(spilling)


def test_a_buffer_on_the_stack_is_no_spill():
    """The loop walks through it; a place that stays the same is one."""
    text = """
	leaq	64(%rsp), %rax
	leaq	128(%rsp), %rcx
.LBB0_1:
	vbroadcastss	(%rax), %ymm1
	vfmadd231ps	(%rsp,%rdx,4), %ymm1, %ymm0
	vfmadd231ps	(%rcx), %ymm1, %ymm2
	vmovups	%ymm0, 32(%rsp)
	addq	$4, %rax
	jne	.LBB0_1
"""
    (loop,) = inner_loops(text, "x86_64")
    assert (loop.instructions, loop.macs) == (6, 2)
    assert [line.split("\t")[0] for line in loop.stack] == ["vfmadd231ps", "vmovups"]
    assert loop.spills


@pytest.mark.parametrize(
    ("arch", "body", "spilled"),
    [
        ("x86_64", "vmovups 32(%rsp), %ymm0; vfmadd231ps 64(%rsp), %ymm0, %ymm1", False),
        ("x86_64", "cmpb $0, -124(%rsp); vfmadd231ps %ymm0, %ymm0, %ymm1", False),
        ("x86_64", "vfmadd231ps %ymm0, %ymm0, %ymm1; vmovups %ymm1, 32(%rsp)", True),
        ("x86_64", "vfmadd231ps %ymm0, %ymm0, %ymm1; incq 32(%rsp)", False),
        ("aarch64", "ldr q4, [sp, #656]; fmla v0.4s, v4.4s, v5.s[0]", False),
        ("aarch64", "fmla v0.4s, v4.4s, v5.s[0]; str x1, [sp, #32]", False),
        ("aarch64", "fmla v0.4s, v4.4s, v5.s[0]; stp q0, q1, [sp, #32]", True),
        ("arm", "add r5, sp, #32; vld1.64 {d0, d1}, [r5:128]; vmla.f32 q1, q0, d6[0]", False),
        ("arm", "str lr, [sp]; vmla.f32 q1, q0, d6[0]", False),
        ("arm", "add r5, sp, #32; vmla.f32 q1, q0, d6[0]; vst1.64 {d2, d3}, [r5:128]", True),
        ("riscv64", "flw fa5, 16(sp); fmadd.s fa0, fa5, fa1, fa0", False),
        ("riscv64", "fmadd.s fa0, fa5, fa1, fa0; fsw fa0, 16(sp)", True),
        ("riscv64", "addi a0, sp, 64; vfmacc.vf v8, fa0, v9; vs1r.v v8, (a0)", True),
    ],
)
def test_only_floats_that_are_written_are_spilled(arch, body, spilled):
    branch = "jne" if arch == "x86_64" else "bnez a5," if arch == "riscv64" else "b.ne"
    lines = [instruction.strip().replace(" ", "\t", 1) for instruction in body.split(";")]
    text = "\n\t".join([".LBB0_1:", *lines, f"{branch}\t.LBB0_1"])
    (loop,) = inner_loops(text, arch)
    assert loop.stack
    assert loop.spills == spilled
