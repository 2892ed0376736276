"""verify: natively, under qemu-user, and what it says when it can't or when the result is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from compiler.errors import EdgeccError
from compiler.package import Golden, open_package, verify_package, write_package
from compiler.package import runner as runner_module
from compiler.package.cpu import host_arch, required_features, why_not_on_host
from compiler.package.runner import Runner
from compiler.package.verify import difference
from compiler.target import load_target
from tests.package import kernels

EMULATED = ["arm_cortex_a72", "arm_cortex_a76", "arm_cortex_a7", "riscv64", "riscv_spacemit_x60"]


def needs_emulator(name: str) -> None:
    emulator = load_target(name).emulator
    if emulator and shutil.which(emulator.command[0]) is None:
        pytest.skip(f"{emulator.command[0]} is not installed")


def rebuilt(tmp_path, target, source=kernels.SOURCE, golden=None):
    program = kernels.model(target)
    objects = (kernels.compile_c(source, target.linker_triple, target.linker_cpu),)
    program = dataclasses.replace(program, objects=objects)
    return write_package(program, target, tmp_path / "p", golden=golden or kernels.golden())


def test_host_package_passes_natively(package_for):
    result = verify_package(package_for("host"))
    assert result.passed, str(result)
    assert result.how == "natively"
    assert [(o.name, o.error) for o in result.outputs] == [("y", 0.0), ("n", 0.0)]
    assert "verified natively against numpy" in str(result)


@pytest.mark.parametrize("name", EMULATED)
def test_foreign_package_passes_under_emulation(package_for, name):
    needs_emulator(name)
    result = verify_package(package_for(name))
    assert result.passed, str(result)
    assert result.how.startswith("under qemu-") or load_target(name).arch == host_arch()


def test_wrong_result_fails_and_names_the_output(tmp_path, host):
    wrong = kernels.SOURCE.replace("((float *)bias)[0]", "0.3f")
    result = verify_package(rebuilt(tmp_path, host, wrong))
    assert result.status == "failed"
    assert "output 'y' is off by" in result.reason


def test_integers_must_be_exact(tmp_path, host):
    good = kernels.golden()
    outputs = {"y": good.outputs["y"], "n": good.outputs["n"] + 1}
    result = verify_package(rebuilt(tmp_path, host, golden=Golden(good.inputs, outputs, "numpy")))
    assert result.status == "failed"
    assert result.reason == "output 'n' is off by 1, allowed is 0"


def test_crash_is_a_failed_verification(tmp_path, host):
    wrong = kernels.SOURCE.replace("int64_t count = 0;", "int64_t count = *(volatile int *)8;")
    result = verify_package(rebuilt(tmp_path, host, wrong))
    assert result.status == "failed"
    assert "crashed with SIGSEGV" in result.reason


def test_result_that_depends_on_threads_fails(tmp_path, host):
    wrong = kernels.SOURCE.replace("c->y[i] = t[i]", "c->y[i] = t[i] + env->num_task * 1e-7f")
    result = verify_package(rebuilt(tmp_path, host, wrong))
    assert result.status == "failed"
    assert "depends on the number of threads: output 'y'" in result.reason


def test_write_outside_of_the_arena_fails(tmp_path, host):
    wrong = kernels.SOURCE.replace("return __TVMBackendFreeWorkspace(1, 0, t);",
        "t[1024] = 1; return __TVMBackendFreeWorkspace(1, 0, t);")  # fmt: skip
    result = verify_package(rebuilt(tmp_path, host, wrong))
    assert result.status == "failed"
    assert "outside of its arena" in result.reason


def test_hanging_library_fails(tmp_path, host):
    wrong = kernels.SOURCE.replace(
        "int64_t count = 0;", "int64_t count = 0; for (;;) *(volatile float *)x;"
    )
    result = verify_package(rebuilt(tmp_path, host, wrong), timeout=2)
    assert result.status == "failed"
    assert "did not finish in 2 s" in result.reason


def test_missing_emulator_is_a_skip_that_says_how_to_install(package_for, monkeypatch):
    if host_arch() != "x86_64":
        pytest.skip("the target is not foreign here")
    monkeypatch.setattr(runner_module.shutil, "which", lambda _: None)
    result = verify_package(package_for("arm_cortex_a72"))
    assert result.status == "skipped"
    assert not result.passed
    assert "qemu-aarch64 is not installed" in str(result)
    assert "apt-get install qemu-user libc6-arm64-cross" in str(result)
    assert "\n" not in str(result)


def test_missing_sysroot_is_a_skip(package_for, monkeypatch):
    if host_arch() != "x86_64":
        pytest.skip("the target is not foreign here")
    monkeypatch.setattr(runner_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(runner_module.os.path, "isdir", lambda _: False)
    result = verify_package(package_for("arm_cortex_a72"))
    assert result.status == "skipped"
    assert "/usr/aarch64-linux-gnu does not exist" in result.reason


def test_library_for_a_better_cpu_is_skipped(package_for, monkeypatch):
    if host_arch() != "x86_64":
        pytest.skip("needs an x86-64 host")
    monkeypatch.setattr("compiler.package.cpu.host_flags", lambda: frozenset({"fpu", "sse4_1"}))
    assert "avx512f" in (why_not_on_host("x86_64", ("avx512f",)) or "")
    result = verify_package(package_for("x86_64_v4"))
    assert result.status == "skipped"
    assert "this CPU has no avx2" in result.reason or "avx512f" in result.reason


def test_library_for_another_vector_length_refuses(package_for):
    needs_emulator("riscv_spacemit_x60")
    package = open_package(package_for("riscv_spacemit_x60"))
    runner = Runner(package)
    runner.prefix = [part.replace("vlen=256", "vlen=512") for part in runner.prefix]
    with pytest.raises(EdgeccError, match="this CPU has no vlen256"):
        runner.run(kernels.golden().inputs)


def test_package_without_golden_data_is_skipped(tmp_path, host):
    result = verify_package(write_package(kernels.model(host), host, tmp_path / "p"))
    assert result.status == "skipped"
    assert "no golden data" in result.reason


def test_damaged_packages_are_one_line_errors(tmp_path, host):
    folder = rebuilt(tmp_path, host)
    with pytest.raises(EdgeccError, match=r"has no manifest\.json"):
        verify_package(tmp_path)
    library = folder / "libtoy.so"
    library.write_bytes(library.read_bytes()[:-1])
    with pytest.raises(EdgeccError, match="its hash differs"):
        verify_package(folder)
    library.unlink()
    with pytest.raises(EdgeccError, match="is missing"):
        verify_package(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(EdgeccError, match="damaged"):
        verify_package(folder)
    (folder / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(EdgeccError, match="damaged"):
        verify_package(folder)


@pytest.mark.parametrize("name", ["host", "arm_cortex_a72"])
def test_runner_times_runs_and_operators(package_for, name):
    needs_emulator(name)
    runner = Runner(open_package(package_for(name)))
    timing = runner.bench(runs=7, threads=1)
    assert timing.runs == 7
    assert timing.threads == 1
    assert 0 < timing.min_ms <= timing.median_ms <= timing.p90_ms
    rows = runner.profile(runs=3)
    assert [row.label for row in rows] == ["multiply", 'add "quoted" \\ ü ??/', "count"]
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_features_of_targets():
    assert "avx512f" in required_features(load_target("x86_64_v4"))
    assert "avx512vnni" in required_features(load_target("x86_64_vnni"))
    assert "avx2" in required_features(load_target("x86_64_v3"))
    assert not {"avx", "avx2"} & set(required_features(load_target("x86_64")))
    assert "dotprod" in required_features(load_target("arm_cortex_a76"))
    assert "dotprod" not in required_features(load_target("arm_cortex_a72"))
    assert "v" in required_features(load_target("riscv_spacemit_x60"))


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.inf, 2.0], [np.inf, 1.0], 1.0),
        ([0.0], [0.0], 0.0),
        ([1e-3], [0.0], 1e-3),
        ([], [], 0.0),
    ],
)
def test_difference_of_floats(got, want, expected):
    assert difference(np.float32(got), np.float32(want)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("got", "want"),
    [([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [-np.inf]), ([1.0, 2.0], [1.0])],
)
def test_difference_is_nan_where_nothing_compares(got, want):
    assert np.isnan(difference(np.float32(got), np.float32(want)))


def test_difference_of_integers():
    assert difference(np.uint8([0, 255]), np.uint8([255, 0])) == 255
    extremes = np.iinfo(np.int64)
    assert difference(np.int64([extremes.min]), np.int64([extremes.max])) == 2.0**64
    assert difference(np.array([True]), np.array([False])) == 1
