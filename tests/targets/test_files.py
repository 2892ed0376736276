"""Target files: what ships is sound, and a user's file fails with file and key named."""

from pathlib import Path

import pytest

from compiler.errors import EdgeccError
from compiler.target import list_targets, load_target

SHIPPED = [name for name in list_targets() if name != "host"]
COMPLETE = (Path(__file__).parents[2] / "targets/arm_cortex_a72.toml").read_text()


def write(folder: Path, text: str, name: str = "board.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fails(path: Path | str, *parts: str) -> EdgeccError:
    with pytest.raises(EdgeccError) as caught:
        load_target(path)
    for part in parts:
        assert part in caught.value.message, caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_all_targets_of_the_project_ship():
    assert list_targets() == [
        "arm_cortex_a53",
        "arm_cortex_a55",
        "arm_cortex_a7",
        "arm_cortex_a72",
        "arm_cortex_a76",
        "arm_neoverse_n1",
        "arm_neoverse_n2",
        "riscv64",
        "riscv_sifive_u74",
        "riscv_sifive_x280",
        "riscv_spacemit_x60",
        "x86_64",
        "x86_64_avxvnni",
        "x86_64_bf16",
        "x86_64_v3",
        "x86_64_v4",
        "x86_64_vnni",
        "host",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_target_is_consistent(name):
    target = load_target(name)
    assert target.name == name
    assert target.boards
    assert target.caches.l1d < (target.caches.l2 or 1 << 40)
    assert 0.5 < target.peak_gflops() < 500
    if target.emulator:
        assert target.emulator.command[0] == f"qemu-{target.arch}"


def test_fitted_targets_say_how_well_and_from_what():
    fitted = [name for name in SHIPPED if load_target(name).estimate]
    assert fitted == ["arm_cortex_a53", "arm_cortex_a72", "arm_cortex_a76"]
    for name in fitted:
        fit = load_target(name).estimate
        assert 0 < fit.error < 0.2
        assert "Raspberry Pi" in fit.source
    assert load_target("arm_cortex_a72").estimate.cycles(100, 10, 1) == pytest.approx(
        79 + 123.5 + 8.95
    )
    assert load_target("host").estimate is None


def test_ways_must_divide_a_cache(tmp_path):
    text = COMPLETE.replace("l1d_ways = 2", "l1d_ways = 3")
    fails(write(tmp_path, text), "board.toml", "caches.l1d_ways", "32768", "3 lines of 64")


def test_a_fit_is_read_strictly(tmp_path):
    text = COMPLETE.replace("cycles_per_l2_miss = 8.95", "cycles_per_l2_miss = -1")
    fails(write(tmp_path, text), "estimate.cycles_per_l2_miss", "0 or above")
    text = COMPLETE.replace("cycles_per_l2_miss = 8.95", "")
    fails(write(tmp_path, text), "missing key estimate.cycles_per_l2_miss")
    text = COMPLETE.replace("error = 0.059", 'error = "small"')
    fails(write(tmp_path, text), "estimate.error", "above 0")


def test_known_values():
    pi4 = load_target("arm_cortex_a72")
    assert (pi4.caches.l1d, pi4.caches.l2, pi4.caches.line) == (32768, 1 << 20, 64)
    assert pi4.peak_gflops() == pytest.approx(2 * 4 * 1.8)
    assert pi4.tvm() == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a72",
        "num-cores": 4,
        "mattr": ["+neon"],
    }
    assert load_target("riscv_sifive_x280").tvm()["mabi"] == "lp64d"


@pytest.mark.parametrize(
    ("wrong", "suggestion"),
    [("arm_cortex_a27", "arm_cortex_a7"), ("x86-64-v3", "x86_64_v3"), ("a72", "arm_cortex_a72")],
)
def test_unknown_target_names_the_nearest_and_all(wrong, suggestion):
    error = fails(wrong, f"unknown target '{wrong}'")
    assert f"did you mean {suggestion}?" in error.hint
    assert "riscv_spacemit_x60" in error.hint


@pytest.mark.parametrize("wrong", ["", " ", "zzz", "x" * 5000, "a\x00b"])
def test_nonsense_names(wrong):
    fails(wrong, "unknown target")


def test_a_complete_file_of_the_user(tmp_path):
    target = load_target(write(tmp_path, COMPLETE, "my-board.v2.toml"))
    assert target.name == "my-board.v2"
    assert target.caches == load_target("arm_cortex_a72").caches
    assert target.emulator == load_target("arm_cortex_a72").emulator


def test_base_fills_in_what_is_missing(tmp_path):
    text = 'base = "arm_cortex_a72"\ncores = 2\n[caches]\nl2 = 524288\n[emulator]\ncommand = []\n'
    target = load_target(str(write(tmp_path, text)))
    assert (target.cores, target.caches.l1d, target.caches.l2) == (2, 32768, 524288)
    assert target.cpu == "cortex-a72"
    assert target.emulator is None


def test_base_may_be_a_file_relative_to_the_file(tmp_path):
    (tmp_path / "boards").mkdir()
    write(tmp_path, 'base = "arm_cortex_a53"\ncores = 3\n', "first.toml")
    second = write(tmp_path, 'base = "../first.toml"\nfrequency_ghz = 1\n', "boards/second.toml")
    target = load_target(second)
    assert (target.cores, target.frequency_ghz, target.cpu) == (3, 1.0, "cortex-a53")


def test_a_relative_path_without_folder(tmp_path, monkeypatch):
    write(tmp_path, 'base = "riscv64"\n')
    monkeypatch.chdir(tmp_path)
    assert load_target("board.toml").arch == "riscv64"
    assert load_target("./board.toml").name == "board"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('base = "arm_cortex_a27"', ["base", "unknown target 'arm_cortex_a27'"]),
        ('base = "host"', ["base"]),
        ("base = 3", ["base"]),
        ('base = ""', ["base"]),
        ('base = "board.toml"', ["base", "its own base"]),
        ('base = "gone.toml"', ["base", "no such file"]),
        ("", ["missing key description"]),
        ("[caches\nl1d = 1", ["not valid TOML", "line 1"]),
        ('base = "riscv64"\ncoers = 3', ["unknown key coers"]),
        ('base = "riscv64"\n[vector]\nwidth = 3', ["unknown key vector.width"]),
        ('base = "riscv64"\nvector = 3', ["vector", "table"]),
        ('base = "riscv64"\ncores = "4"', ["cores", "whole number", "'4'"]),
        ('base = "riscv64"\ncores = true', ["cores", "True"]),
        ('base = "riscv64"\ncores = 0', ["cores"]),
        ('base = "riscv64"\ncores = 2.5', ["cores"]),
        ('base = "riscv64"\nfrequency_ghz = -1', ["frequency_ghz"]),
        ('base = "riscv64"\nfrequency_ghz = inf', ["frequency_ghz"]),
        ('base = "riscv64"\nfrequency_ghz = nan', ["frequency_ghz"]),
        ('base = "riscv64"\ntriple = ""', ["triple"]),
        ('base = "riscv64"\ntriple = "a\\nb"', ["triple"]),
        ('base = "riscv64"\nfeatures = "+v"', ["features", "list"]),
        ('base = "riscv64"\nfeatures = ["v"]', ["features", '"v"']),
        ('base = "riscv64"\nfeatures = [3]', ["features"]),
        ('base = "riscv64"\narch = "mips"', ["arch", "x86_64, aarch64, arm, riscv64"]),
        ('base = "riscv64"\narch = ["arm"]', ["arch"]),
        ('base = "riscv64"\narch = "arm"', ["triple", "riscv64-linux-gnu", "arch arm"]),
        ('base = "riscv64"\n[linker]\ntriple = "x86_64-linux-gnu"', ["linker.triple"]),
        ('base = "riscv64"\n[vector]\nbits = 100', ["vector.bits"]),
        ('base = "riscv64"\n[vector]\nfma = 1', ["vector.fma", "true or false"]),
        ('base = "riscv64"\n[caches]\nl1d = "32 KB"', ["caches.l1d", "KiB"]),
        ('base = "riscv64"\n[caches]\nl1d = 0', ["caches.l1d", "above 0"]),
        ('base = "riscv64"\n[caches]\nl2 = -5', ["caches.l2"]),
        ('base = "riscv64"\n[caches]\nline = 60', ["caches.line"]),
        ('base = "riscv64"\n[emulator]\ncommand = "qemu"', ["emulator.command"]),
    ],
)
def test_bad_files_name_file_and_key(tmp_path, text, parts):
    path = write(tmp_path, text)
    fails(path, str(path), *parts)


def test_a_cycle_of_bases(tmp_path):
    write(tmp_path, 'base = "./b.toml"', "a.toml")
    write(tmp_path, 'base = "./a.toml"', "b.toml")
    fails(tmp_path / "a.toml", "its own base")


@pytest.mark.parametrize("key", ["description", "cpu", "features", "cores"])
def test_every_key_is_needed(tmp_path, key):
    lines = [line for line in COMPLETE.splitlines() if not line.startswith(f"{key} =")]
    error = fails(write(tmp_path, "\n".join(lines)), f"missing key {key}")
    assert "base" in error.hint


def test_near_misses_get_a_suggestion(tmp_path):
    error = fails(write(tmp_path, 'base = "riscv64"\n[cache]\nl1d = 1'), "unknown key cache")
    assert "caches" in error.hint


def test_files_that_are_no_text_files(tmp_path):
    fails(tmp_path / "gone.toml", "no such file")
    fails(f"{tmp_path}/", "folder")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    fails(binary, "UTF-8")
    (tmp_path / "folder.toml").mkdir()
    fails(tmp_path / "folder.toml", "folder")
    fails("/dev/zero", "device")
    fails("./a\x00b.toml", "a path can't hold")
    fails("./" + "x" * 5000 + ".toml", "too long")
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * (2 << 20))
    fails(big, "too large")


def test_a_name_that_no_folder_could_have(tmp_path):
    fails(write(tmp_path, COMPLETE, "my board.toml"), "my board.toml", "name")
