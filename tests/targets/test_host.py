"""The host is described from /proc and /sys; here from made-up ones."""

import os
from pathlib import Path

import pytest

from compiler.errors import EdgeccError
from compiler.host import host_target
from compiler.target import load_target

V2 = "cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3"
V3 = V2 + " abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
V4 = V3 + " avx512bw avx512cd avx512dq avx512f avx512vl"


def machine(root: Path, cpuinfo: str, caches=(), max_khz: str = "") -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    cpu = root / "sys/devices/system/cpu/cpu0"
    for number, (level, kind, size) in enumerate(caches):
        folder = cpu / f"cache/index{number}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "type").write_text(f"{kind}\n")
        (folder / "size").write_text(f"{size}\n")
        (folder / "coherency_line_size").write_text("128\n")
    if max_khz:
        (cpu / "cpufreq").mkdir(parents=True)
        (cpu / "cpufreq/cpuinfo_max_freq").write_text(max_khz + "\n")
    return root


def x86(flags: str, vendor="GenuineIntel", family=6, model=85, name="Xeon") -> str:
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\ncpu MHz\t\t: 2445.404\nflags\t\t: fpu {flags}\n"
    )


@pytest.mark.parametrize(
    ("flags", "cpu", "bits", "features"),
    [
        ("", "x86-64", 128, ()),
        (V2, "x86-64-v2", 128, ()),
        (V2 + " avx", "x86-64-v2", 128, ()),
        (V3, "x86-64-v3", 256, ()),
        (V3 + " avx_vnni avx512_vnni", "x86-64-v3", 256, ("+avxvnni",)),
        (V4, "x86-64-v4", 512, ("-prefer-256-bit",)),
        (V4 + " avx512_vnni", "x86-64-v4", 512, ("-prefer-256-bit", "+avx512vnni")),
        (V4 + " avx512_bf16", "x86-64-v4", 512, ("-prefer-256-bit", "+avx512bf16")),
        (V4.replace("avx512bw", ""), "x86-64-v3", 256, ()),
    ],
)
def test_x86_levels(tmp_path, flags, cpu, bits, features):
    target = host_target(machine(tmp_path, x86(flags)), "x86_64")
    assert (target.name, target.cpu, target.vector.bits) == ("host", cpu, bits)
    assert target.features == features
    assert target.frequency_ghz == 2.445
    assert target.emulator is None


@pytest.mark.parametrize(
    ("cpuinfo", "rate"),
    [
        (x86(V4), 2.0),
        (x86(V4, name="Core i9"), 1.0),
        (x86(V4, "AuthenticAMD", 25, 17, "EPYC"), 1.0),  # Zen 4
        (x86(V4, "AuthenticAMD", 26, 2, "EPYC"), 2.0),  # Zen 5
        (x86(V3, "AuthenticAMD", 25, 1, "EPYC"), 2.0),  # Zen 3
        (x86(V3, "AuthenticAMD", 23, 1, "EPYC"), 1.0),  # Zen 1
    ],
)
def test_x86_fma_rate(tmp_path, cpuinfo, rate):
    assert host_target(machine(tmp_path, cpuinfo), "x86_64").vector.fma_per_cycle == rate


def arm(*parts: str, implementer="0x41", features="fp asimd") -> str:
    return "".join(
        f"processor : {n}\nFeatures : {features}\nCPU implementer : {implementer}\n"
        f"CPU part : {part}\n\n"
        for n, part in enumerate(parts)
    )


def test_arm_boards_take_over_the_shipped_description(tmp_path):
    root = machine(tmp_path, arm("0xd08", "0xd08"), max_khz="1500000")
    target = host_target(root, "aarch64")
    shipped = load_target("arm_cortex_a72")
    assert (target.cpu, target.vector, target.caches) == (
        "cortex-a72",
        shipped.vector,
        shipped.caches,
    )
    assert target.frequency_ghz == 1.5


@pytest.mark.parametrize(
    ("cpuinfo", "cpu", "features"),
    [
        (arm("0xd0b", features="asimd asimddp"), "cortex-a76", ("+neon", "+dotprod")),
        (arm("0xd05", "0xd0b", features="asimd asimddp"), "generic", ("+neon", "+dotprod")),
        (arm("0xd4f", features="asimd asimddp i8mm bf16"), "neoverse-v2",
         ("+neon", "+dotprod", "+i8mm", "+bf16", "-sve")),
        (arm("0x022", implementer="0x61"), "generic", ("+neon",)),
        ("", "generic", ("+neon",)),
    ],
)  # fmt: skip
def test_arm_parts(tmp_path, cpuinfo, cpu, features):
    target = host_target(machine(tmp_path, cpuinfo), "aarch64")
    assert (target.cpu, target.features) == (cpu, features)
    assert target.vector.bits == 128


@pytest.mark.parametrize(
    ("cpuinfo", "cpu", "bits"),
    [
        ("isa : rv64imafdc\nuarch : sifive,u74-mc\n", "sifive-u74", 0),
        ("isa : rv64imafdcv_zba\nuarch : spacemit,x60\n", "spacemit-x60", 256),
        ("isa : rv64imafdcv_zba_zvl256b\n", "generic-rv64", 256),
        ("isa : rv64imafdcv\n", "generic-rv64", 128),
        ("isa : rv64imafdc_zve32x\n", "generic-rv64", 0),
        ("", "generic-rv64", 0),
    ],
)
def test_riscv(tmp_path, cpuinfo, cpu, bits):
    target = host_target(machine(tmp_path, cpuinfo), "riscv64")
    assert (target.cpu, target.vector.bits) == (cpu, bits)


@pytest.mark.parametrize("extension", ["_zvfh", ""])
def test_riscv_with_float16(tmp_path, extension):
    cpuinfo = f"isa : rv64imafdcv_zfh{extension}_zvl256b\n"
    target = host_target(machine(tmp_path, cpuinfo), "riscv64")
    assert target.has_float16 == bool(extension)


def test_caches_of_the_machine(tmp_path):
    levels = [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"),
              (3, "Unified", "36M")]  # fmt: skip
    caches = host_target(machine(tmp_path, x86(V3), levels), "x86_64").caches
    assert (caches.l1d, caches.l2, caches.l3, caches.line) == (48 << 10, 2 << 20, 36 << 20, 128)


def test_nothing_to_read(tmp_path):
    target = host_target(tmp_path, "x86_64")
    assert target.cpu == "x86-64"
    assert target.caches == load_target("x86_64").caches
    assert target.cores >= 1


def test_32_bit_arm(tmp_path):
    assert host_target(tmp_path, "armv7l").cpu == "cortex-a7"


def test_an_architecture_without_targets(tmp_path):
    with pytest.raises(EdgeccError, match="s390x"):
        host_target(tmp_path, "s390x")


def test_this_machine():
    target = load_target("host")
    assert target.name == "host"
    assert 1 <= target.cores <= (os.cpu_count() or 1)
    assert target.frequency_ghz > 0
    assert target.caches.l1d >= 4096
