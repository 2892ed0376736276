"""The plugin against programs whose counts are known by reading them."""

from collections import OrderedDict

import pytest

from compiler.errors import EdgeccError
from compiler.estimate.counts import CLASSES, Counts
from compiler.estimate.plugin import build_plugin, count
from compiler.target import Caches
from tests.estimate import guest

# What each line counts as; the loop around it runs ITERATIONS times.
AARCH64 = [
    ("add x1, x1, #1", "int"),
    ("mul x2, x1, x1", "int"),
    ("adr x4, _start", "int"),
    ("csel x2, x1, x2, eq", "int"),
    ("fadd s0, s1, s2", "fp"),
    ("fmul s0, s1, v2.s[1]", "fp"),
    ("fcvtzs w5, s0", "fp"),
    ("scvtf d0, x5", "fp"),
    ("fmadd s0, s1, s2, s3", "fma"),
    ("fnmsub d0, d1, d2, d3", "fma"),
    ("fmla s0, s1, v2.s[1]", "fma"),
    ("fadd v0.4s, v1.4s, v2.4s", "vector"),
    ("fmul v0.4s, v1.4s, v2.s[1]", "vector"),
    ("fmax v0.4s, v1.4s, v2.4s", "vector"),
    ("movi v0.4s, #0", "vector"),
    ("dup v0.4s, v1.s[2]", "vector"),
    ("mov v0.16b, v1.16b", "vector"),
    ("mul v0.8h, v1.8h, v2.8h", "vector"),
    ("smull v0.4s, v1.4h, v2.4h", "vector"),
    ("sqrdmulh v0.4s, v1.4s, v2.s[0]", "vector"),
    ("addv s0, v1.4s", "vector"),
    ("zip1 v0.4s, v1.4s, v2.4s", "vector"),
    ("tbl v0.16b, {v1.16b}, v2.16b", "vector"),
    ("ext v0.16b, v1.16b, v2.16b, #4", "vector"),
    ("shl v0.4s, v1.4s, #3", "vector"),
    ("fmla v0.4s, v1.4s, v2.4s", "vector_fma"),
    ("fmla v0.4s, v1.4s, v2.s[3]", "vector_fma"),
    ("fmls v0.2d, v1.2d, v2.2d", "vector_fma"),
    ("fmls v0.4s, v1.4s, v2.s[1]", "vector_fma"),
    ("mla v0.4s, v1.4s, v2.4s", "vector_fma"),
    ("mls v0.8h, v1.8h, v2.h[1]", "vector_fma"),
    ("smlal v0.4s, v1.4h, v2.4h", "vector_fma"),
    ("umlal2 v0.4s, v1.8h, v2.h[1]", "vector_fma"),
    ("sdot v0.4s, v1.16b, v2.16b", "vector_fma"),
    ("udot v0.4s, v1.16b, v2.4b[2]", "vector_fma"),
    ("fmla v0.8h, v1.8h, v2.8h", "vector_fma"),
    ("ldr x3, [sp, #-16]", "load"),
    ("ldur w3, [sp, #-16]", "load"),
    ("ldrsw x3, [sp]", "load"),
    ("ldrb w3, [sp, xzr]", "load"),
    ("ldp x2, x3, [sp]", "load"),
    ("ldr s3, [sp]", "load"),
    ("ldp d3, d4, [sp]", "load"),
    ("ldr x3, =0x123456789abcdef0", "load"),
    ("ldxr x3, [sp]", "load"),
    ("ldr q3, [sp]", "vector_load"),
    ("ldur q3, [sp, #-16]", "vector_load"),
    ("ldp q3, q4, [sp]", "vector_load"),
    ("ld1 {v3.4s}, [x7]", "vector_load"),
    ("ld1r {v3.4s}, [x7]", "vector_load"),
    ("ld3 {v3.4s, v4.4s, v5.4s}, [x7]", "vector_load"),
    ("str x3, [sp, #-16]", "store"),
    ("stp w2, w3, [sp, #-16]", "store"),
    ("str s3, [sp, #-16]", "store"),
    ("stur d3, [sp, #-16]", "store"),
    ("str q3, [sp, #-16]", "vector_store"),
    ("stp q3, q4, [sp, #-32]", "vector_store"),
    ("st1 {v3.4s}, [x9]", "vector_store"),
    ("prfm pldl1keep, [sp]", "other"),
    ("dmb ish", "other"),
    ("nop", "other"),
    ("b 2f\n2:", "branch"),
    ("cbnz xzr, 2f\n2:", "branch"),
    ("bl 2f\n2:", "branch"),
]
RISCV64 = [
    ("add t1, t1, t2", "int"),
    ("mul t1, t1, t2", "int"),
    ("c.addi t1, 1", "int"),
    ("c.mv t1, t2", "int"),
    ("auipc t1, 0", "int"),
    ("fadd.s ft0, ft1, ft2", "fp"),
    ("fcvt.w.s t1, ft0", "fp"),
    ("fmadd.s ft0, ft1, ft2, ft3", "fma"),
    ("fnmsub.d ft0, ft1, ft2, ft3", "fma"),
    ("vsetvli t1, t0, e32, m1, ta, ma", "other"),
    ("vfadd.vv v1, v2, v3", "vector"),
    ("vfmul.vf v1, v2, ft0", "vector"),
    ("vadd.vi v1, v2, 1", "vector"),
    ("vmul.vv v1, v2, v3", "vector"),
    ("vfmacc.vf v1, ft0, v2", "vector_fma"),
    ("vfmacc.vv v1, v2, v3", "vector_fma"),
    ("vfnmsac.vf v1, ft0, v2", "vector_fma"),
    ("vmacc.vx v1, t1, v2", "vector_fma"),
    ("vle32.v v1, (s1)", "vector_load"),
    ("vlse32.v v1, (s1), zero", "vector_load"),
    ("vl1re32.v v1, (s1)", "vector_load"),
    ("vse32.v v1, (s2)", "vector_store"),
    ("ld t1, 0(sp)", "load"),
    ("c.ldsp a5, 0(sp)", "load"),
    ("flw ft0, 0(sp)", "load"),
    ("c.fldsp fa0, 0(sp)", "load"),
    ("sd t1, -16(sp)", "store"),
    ("fsw ft0, -16(sp)", "store"),
    ("fence", "other"),
    ("j 2f\n2:", "branch"),
    ("bne t1, t1, 2f\n2:", "branch"),
]
ARM = [
    ("add r1, r1, #1", "int"),
    ("bic r1, r1, #1", "int"),
    ("vadd.f32 s0, s1, s2", "fp"),
    ("vfma.f32 s0, s1, s2", "fma"),
    ("vadd.f32 q0, q1, q2", "vector"),
    ("vdup.32 q0, d2[1]", "vector"),
    ("vfma.f32 q0, q1, q2", "vector_fma"),
    ("vmla.f32 q0, q1, d4[1]", "vector_fma"),
    ("vmlal.s16 q0, d2, d4", "vector_fma"),
    ("ldr r1, [sp]", "load"),
    ("ldmib sp, {r1, r2}", "load"),
    ("vldr s0, [sp]", "load"),
    ("vld1.32 {d0, d1}, [sp]", "vector_load"),
    ("str r1, [sp, #-16]", "store"),
    ("vst1.32 {d0, d1}, [r9]", "vector_store"),
    ("dmb ish", "other"),
    ("b 2f\n2:", "branch"),
    ("blne 2f\n2:", "branch"),
]
X86_64 = [
    ("add $1, %rcx", "int"),
    ("lea 8(%rsp), %rcx", "int"),
    ("mulss %xmm1, %xmm0", "fp"),
    ("vfmadd231ss %xmm1, %xmm2, %xmm0", "fma"),
    ("vaddps %ymm1, %ymm2, %ymm0", "vector"),
    ("vfmadd231ps %ymm1, %ymm2, %ymm0", "vector_fma"),
    ("vfmadd231ps (%rsp), %ymm2, %ymm0", "vector_fma"),
    ("mov (%rsp), %rcx", "load"),
    ("vmovss (%rsp), %xmm0", "load"),
    ("vmovups (%rsp), %ymm0", "vector_load"),
    ("vbroadcastss (%rsp), %ymm0", "vector_load"),
    ("mov %rcx, -16(%rsp)", "store"),
    ("vmovups %ymm0, -64(%rsp)", "vector_store"),
    ("nop", "other"),
    ("jmp 2f\n2:", "branch"),
]
ITERATIONS = 7
# before all loops; the loop counter; the end of a loop: one integer instruction and a branch
LOOPS = {
    "aarch64": ("sub x7, sp, #0\n sub x9, sp, #256", "mov x6, #7", "subs x6, x6, #1\n b.ne 1b"),
    "riscv64": (
        "addi s1, sp, 0\n addi s2, sp, -256\n li t0, 8\n vsetvli t1, t0, e32, m1, ta, ma",
        "li s3, 7",
        "addi s3, s3, -1\n bnez s3, 1b",
    ),
    "arm": ("sub r9, sp, #256", "mov r10, #7", "subs r10, r10, #1\n bne 1b"),
    "x86_64": ("nop", "mov $7, %r10", "dec %r10\n jne 1b"),
}


@pytest.mark.parametrize(
    ("arch", "lines"),
    [("aarch64", AARCH64), ("riscv64", RISCV64), ("arm", ARM), ("x86_64", X86_64)],
)
def test_every_instruction_is_of_its_class(arch, lines, tmp_path):
    """Each line alone in a loop of its own."""
    prepare, start, end = LOOPS[arch]
    bodies = [f"{start}\n1: {line}\n{end}" for line, _ in lines]
    found = guest.run(arch, bodies, tmp_path, prepare=prepare)
    for (line, name), counts in zip(lines, found, strict=True):
        expected = dict.fromkeys(CLASSES, 0) | {"int": 1 + ITERATIONS, "branch": ITERATIONS}
        expected[name] += ITERATIONS
        assert {name: counts[name] for name in CLASSES} == expected, line


def lru_misses(addresses, nbytes, caches):
    """L1D and L2 misses, written with ordered dictionaries instead of arrays."""
    levels = [
        [OrderedDict() for _ in range(size // (ways * caches.line))]
        for size, ways in ((caches.l1d, caches.l1d_ways), (caches.l2, caches.l2_ways))
    ]
    misses = [0, 0]

    def hit(level, ways, line):
        lines = level[line % len(level)]
        present = line in lines
        lines[line] = True
        lines.move_to_end(line)
        if len(lines) > ways:
            lines.popitem(last=False)
        return present

    for address in addresses:
        first, last = address // caches.line, (address + nbytes - 1) // caches.line
        for line in range(first, last + 1):
            if hit(levels[0], caches.l1d_ways, line):
                continue
            misses[0] += 1
            misses[1] += not hit(levels[1], caches.l2_ways, line)
    return tuple(misses)


@pytest.mark.parametrize(
    "caches",
    [
        Caches(2048, 16384, 0, 64, l1d_ways=2, l2_ways=4),
        Caches(1024, 32768, 0, 64, l1d_ways=1, l2_ways=16),
        Caches(3 * 4 * 32, 5 * 2 * 32, 0, 32, l1d_ways=4, l2_ways=2),  # sets: 3 and 5
        Caches(65536, 1 << 20, 0, 128, l1d_ways=4, l2_ways=8),
    ],
    ids=lambda c: f"{c.l1d}x{c.l1d_ways}-{c.l2}x{c.l2_ways}",
)
def test_cache_misses_match_a_reference(caches, tmp_path):
    """Random 8-byte loads and stores, unaligned, some across two lines, half of them in 4 KiB."""
    base, rounds, factor, step = 0x10000000, 3000, 6364136223846793005, 1442695040888963407
    wide, narrow = (1 << 17) - 1, (1 << 12) - 1

    def constant(register, value):
        parts = [f"movk {register}, #{value >> s & 0xFFFF}, lsl #{s}" for s in (16, 32, 48)]
        return "\n ".join([f"movz {register}, #{value & 0xFFFF}", *parts])

    prepare = f"""
     {constant("x0", base)}
     mov x1, #0x100000
     mov x2, #3          // read, write
     mov x3, #0x32       // private, fixed, anonymous
     mov x4, #-1
     mov x5, #0
     mov x8, #222        // mmap
     svc #0
     mov x20, x0
     {constant("x21", factor)}
     {constant("x22", step)}
     mov x10, #1
     mov x11, #{rounds}"""
    body = f"""
    1: madd x10, x10, x21, x22
     lsr x12, x10, #33
     and x12, x12, #{wide}
     ldr x13, [x20, x12]
     madd x10, x10, x21, x22
     lsr x12, x10, #33
     and x12, x12, #{narrow}
     str x13, [x20, x12]
     subs x11, x11, #1
     b.ne 1b"""
    addresses, value = [], 1
    for _ in range(rounds):
        for mask in (wide, narrow):
            value = (value * factor + step) % (1 << 64)
            addresses.append(base + (value >> 33 & mask))
    found = guest.run("aarch64", [body], tmp_path, caches, prepare=prepare)[0]
    assert (found["load"], found["store"]) == (rounds, rounds)
    assert (found.l1d_misses, found.l2_misses) == lru_misses(addresses, 8, caches)
    assert found.l2_misses > 0


def test_vector_accesses_reach_the_cache(tmp_path):
    """RVV loads run in helper functions of the emulator; 4 KiB are 64 lines, once."""
    prepare = (
        "li a0, 0x10000000\n li a1, 0x10000\n li a2, 3\n li a3, 0x32\n li a4, -1\n li a5, 0\n"
        "li a7, 222\n ecall\n mv s1, a0\n li t0, 8\n vsetvli t1, t0, e32, m1, ta, ma\n li s3, 128"
    )
    body = "1: vle32.v v1, (s1)\n addi s1, s1, 32\n addi s3, s3, -1\n bnez s3, 1b"
    found = guest.run("riscv64", [body], tmp_path, prepare=prepare)[0]
    assert found["vector_load"] == 128
    assert (found.l1d_misses, found.l2_misses) == (64, 64)


def test_the_plugin_is_built_once(tmp_path, monkeypatch):
    first = build_plugin(tmp_path)
    changed = first.stat().st_mtime_ns
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert build_plugin(tmp_path) == first
    assert first.stat().st_mtime_ns == changed
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_zig_compiles_the_plugin_where_there_is_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    plugin = build_plugin(tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setattr(guest, "build_plugin", lambda: plugin)
    assert guest.run("aarch64", ["fmla v0.4s, v1.4s, v2.4s"], tmp_path)[0]["vector_fma"] == 1


def test_a_cache_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeccError, match=r"can't write .*file"):
        build_plugin(tmp_path / "file")


def test_an_emulator_that_takes_no_plugins(tmp_path):
    emulator = tmp_path / "qemu-old"
    emulator.write_text("#!/bin/sh\necho 'qemu: unknown option: plugin' >&2\nexit 1\n")
    emulator.chmod(0o755)
    with pytest.raises(EdgeccError, match="qemu-old does not take the counting plugin") as caught:
        count([str(emulator)], ["program"], guest.CACHES, tmp_path)
    assert "QEMU" in caught.value.hint


def test_an_emulator_that_is_missing(tmp_path):
    with pytest.raises(EdgeccError, match="not installed"):
        count([str(tmp_path / "qemu-gone")], ["program"], guest.CACHES, tmp_path)


def test_sums_and_shares():
    one = Counts((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), 12, 13)
    assert Counts.sum([one, one]).classes == tuple(2 * n for n in one.classes)
    assert Counts.sum([]).instructions == 0
    assert one.instructions == 66
    assert one.vector_share == pytest.approx((4 + 5 + 7 + 9) / 66)
    assert one.fma_share == pytest.approx((3 + 5) / 66)
    with pytest.raises(ValueError, match="3 classes"):
        Counts.parse("1 2 3 4 5")
