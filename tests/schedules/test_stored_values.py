"""What a loop computed is told from what it only loaded, on each instruction set."""

import pytest

from tests.schedules.inner_loops import inner_loops
from tests.schedules.stored_values import Flow

BRANCHES = {"x86_64": "jne", "aarch64": "b.ne", "arm": "bne", "riscv64": "bnez a5,"}
SKIPS = {"x86_64": "je", "aarch64": "b.eq", "arm": "beq", "riscv64": "beqz a4,"}
JUMPS = {"x86_64": "jmp", "aarch64": "b", "arm": "b", "riscv64": "j"}
# A multiply-accumulate into the first register that the loops below use.
MAC = {
    "x86_64": "vfmadd231ps %ymm8, %ymm9, %ymm0",
    "aarch64": "fmla v0.4s, v8.4s, v9.s[0]",
    "arm": "vmla.f32 q0, q8, d2[0]",
    "riscv64": "fmadd.s fa0, fa1, fa2, fa0",
}
# Into and from the stack: the first register, and what loads it from an input.
STORE = {
    "x86_64": "vmovups %ymm0, 32(%rsp)",
    "aarch64": "str q0, [sp, #32]",
    "arm": "vst1.64 {d0, d1}, [r0:128]",
    "riscv64": "fsw fa0, 32(sp)",
}
LOAD = {
    "x86_64": "vmovups 64(%rdi,%rax,4), %ymm0",
    "aarch64": "ldp q1, q0, [x1], #32",
    "arm": "vld1.32 {d0, d1}, [r1]!",
    "riscv64": "flw fa0, 8(a1)",
}
ARCHES = sorted(MAC)


def text(arch: str, body: str) -> str:
    """A loop of these instructions."""
    lines = [line.strip() for line in body.split(";")]
    lines = [line if line.endswith(":") else "\t" + line.replace(" ", "\t", 1) for line in lines]
    return "\n".join([".LBB0_1:", *lines, f"\t{BRANCHES[arch]}\t.LBB0_1"])


def computes(arch: str, body: str) -> bool:
    """Whether the last store in the loop writes what the loop computed."""
    lines = text(arch, body).splitlines()
    at = max(i for i, line in enumerate(lines) if "sp" in line or "r0:" in line)
    return Flow(lines, 0, len(lines) - 1, arch).computes(at)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_stored_accumulator_is_computed(arch):
    assert computes(arch, f"{LOAD[arch]}; {MAC[arch]}; {STORE[arch]}")


@pytest.mark.parametrize("arch", ARCHES)
def test_a_stored_input_is_not(arch):
    assert not computes(arch, f"{MAC[arch]}; {LOAD[arch]}; {STORE[arch]}")


@pytest.mark.parametrize("arch", ARCHES)
def test_an_accumulator_of_the_round_before_is_computed(arch):
    assert computes(arch, f"{STORE[arch]}; {MAC[arch]}")


@pytest.mark.parametrize("arch", ARCHES)
def test_what_the_loop_does_not_write_is_not_computed(arch):
    other = MAC[arch].replace("ymm0", "ymm7").replace("v0", "v7").replace("q0", "q7")
    other = other.replace("fa0", "fa7")
    assert not computes(arch, f"{other}; {STORE[arch]}")


@pytest.mark.parametrize("arch", ARCHES)
def test_a_load_on_one_of_two_ways_is_not_enough(arch):
    body = f"{MAC[arch]}; {SKIPS[arch]} .LBB0_2; {LOAD[arch]}; .LBB0_2:; {STORE[arch]}"
    assert computes(arch, body)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_load_on_both_ways_is_enough(arch):
    body = f"{SKIPS[arch]} .LBB0_2; {LOAD[arch]}; {JUMPS[arch]} .LBB0_3"
    assert not computes(
        arch, f"{body}; .LBB0_2:; {MAC[arch]}; {LOAD[arch]}; .LBB0_3:; {STORE[arch]}"
    )


@pytest.mark.parametrize(
    ("arch", "body", "computed"),
    [
        # Moves and shuffles carry what they are given.
        ("x86_64", "movss 4(%rdi), %xmm1; movaps %xmm1, %xmm2; movaps %xmm2, (%rsp)", False),
        ("x86_64", "movss 4(%rdi), %xmm1; shufps $0, %xmm1, %xmm1; movaps %xmm1, (%rsp)", False),
        ("x86_64", "mulps %xmm3, %xmm1; movaps %xmm1, %xmm2; movaps %xmm2, (%rsp)", True),
        ("x86_64", "addps %xmm3, %xmm1; shufps $0, %xmm1, %xmm1; movaps %xmm1, (%rsp)", True),
        ("aarch64", "ldr q1, [x1]; mov v2.16b, v1.16b; str q2, [sp]", False),
        ("aarch64", "ld1r {v1.4s}, [x1]; dup v2.4s, v1.s[0]; stp q2, q1, [sp]", False),
        ("aarch64", "fmla v1.4s, v3.4s, v4.s[0]; mov v2.16b, v1.16b; str q2, [sp]", True),
        ("arm", "vld1.32 {d4, d5}, [r1]!; vorr q3, q2, q2; vst1.64 {d6, d7}, [r0:128]", False),
        ("arm", "vld1.32 {d4, d5}, [r1]!; vorr q3, q2, q4; vst1.64 {d6, d7}, [r0:128]", True),
        ("arm", "vmla.f32 q2, q8, d2[0]; vmov.f32 s0, s9; vstr s0, [sp, #4]", True),
        ("riscv64", "flw fa1, 4(a1); fmv.s fa0, fa1; fsw fa0, 4(sp)", False),
        ("riscv64", "fmadd.s fa1, fa1, fa2, fa1; fmv.s fa0, fa1; fsw fa0, 4(sp)", True),
        # A move that leaves a part of its destination alone.
        ("x86_64", "addps %xmm3, %xmm1; movss %xmm2, %xmm1; movaps %xmm1, (%rsp)", True),
        ("x86_64", "addps %xmm3, %xmm1; movss 4(%rdi), %xmm1; movaps %xmm1, (%rsp)", False),
        ("aarch64", "fmla v1.4s, v3.4s, v4.s[0]; mov v1.s[1], v2.s[0]; str q1, [sp]", True),
        ("aarch64", "fmla v1.4s, v3.4s, v4.s[0]; ld1 {v1.s}[1], [x1]; str q1, [sp]", True),
        ("arm", "vmla.f32 q0, q8, d2[0]; vld1.32 {d0[1]}, [r1]; vst1.64 {d0, d1}, [r0:128]", True),
        # Registers under another name, of which a part is enough.
        ("x86_64", "vfmadd231ps %ymm8, %ymm9, %ymm0; vmovups %xmm0, (%rsp)", True),
        ("aarch64", "fmla v8.4s, v1.4s, v2.s[0]; str d8, [sp, #8]", True),
        ("arm", "vld1.32 {d0, d1}, [r1]!; vmla.f32 s3, s8, s9; vst1.64 {d0, d1}, [r0:128]", True),
        ("arm", "vmla.f32 q1, q8, d0[0]; vld1.32 {d4, d5}, [r1]!; vstr s8, [sp, #4]", False),
        # Sums, maxima and choices are results as well, even if nothing multiplies.
        ("x86_64", "vmaxps (%rdi), %ymm1, %ymm0; vmovups %ymm0, (%rsp)", True),
        ("x86_64", "movups (%rdi), %xmm0; cmpltps %xmm1, %xmm0; movups %xmm0, (%rsp)", True),
        ("aarch64", "ldr q0, [x1]; fmax v0.4s, v0.4s, v1.4s; str q0, [sp]", True),
        ("aarch64", "ldr q0, [x1]; bsl v0.16b, v1.16b, v2.16b; str q0, [sp]", True),
        ("arm", "vldr s0, [r1]; vmovgt.f32 s0, s4; vstr s0, [sp, #4]", True),
        ("riscv64", "flw fa0, 4(a1); fadd.s fa0, fa0, fa1; fsw fa0, 4(sp)", True),
        # Comparisons and stores write no register; masked loads write a part.
        ("x86_64", "movups (%rdi), %xmm0; ucomiss %xmm1, %xmm0; movups %xmm0, (%rsp)", False),
        ("arm", "vldr s0, [r1]; vcmp.f32 s0, #0; vstr s0, [r2]; vstr s0, [sp, #4]", False),
        ("x86_64", "vaddps %zmm1, %zmm0, %zmm0; vmovups (%rdi), %zmm0 {%k1}; "
         "vmovups %zmm0, (%rsp)", True),
        # Any of RISC-V's vectors may be a part of a group that has another one's name.
        ("riscv64", "vle32.v v8, (a1); vs1r.v v8, (sp)", True),
        ("riscv64", "vfmacc.vf v8, fa0, v16; vs1r.v v9, (sp)", True),
    ],
)  # fmt: skip
def test_ways_of_values(arch, body, computed):
    assert computes(arch, body) == computed


@pytest.mark.parametrize("arch", ARCHES)
def test_loops_say_so(arch):
    """The store into the stack counts, and spills only where it writes what was computed."""
    base = "add r0, sp, #32; " if arch == "arm" else ""
    accumulator, loaded = (
        inner_loops(text(arch, f"{base}{body}"), arch)[0]
        for body in (f"{MAC[arch]}; {STORE[arch]}", f"{MAC[arch]}; {LOAD[arch]}; {STORE[arch]}")
    )
    assert (len(accumulator.stack), accumulator.spills) == (1, True)
    assert (len(loaded.stack), loaded.spills) == (1, False)
