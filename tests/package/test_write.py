"""The package folder: content, reproducibility, nothing left behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from compiler.errors import EdgeccError
from compiler.package import Golden, Quantization, open_package, write_package
from compiler.package import link as link_module
from compiler.package.elf import read_needed, read_symbols
from compiler.program import ArenaPlan
from compiler.target import load_target
from tests.package import kernels

LIBC = {"libc.so.6", "libm.so.6", "libpthread.so.0"}
TARGETS = ["x86_64", "arm_cortex_a72", "arm_cortex_a7", "riscv64"]


def test_manifest_describes_every_file(package_for):
    folder = package_for("host")
    package = open_package(folder)
    names = {"libtoy.so", "toy.h", "golden.npz", "receipt.json"}
    assert {file.name for file in folder.iterdir()} == names | {"manifest.json"}
    assert set(package.manifest["files"]) == names
    for name, row in package.manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == row["sha256"]
    package.check_files()
    assert [t.name for t in package.outputs] == ["y", "n"]
    assert package.inputs[0].shape == (10, 100)
    arena = package.manifest["arena"]
    assert arena["nbytes"] == 64 + 4032 + 4096  # planned, rounded up to 64, and the workspace
    assert arena["allocations"][0]["name"] == "t"


def test_receipt_has_a_row_for_each_operator(package_for):
    receipt = open_package(package_for("host")).receipt()
    assert next(row["label"] for row in receipt["operators"]) == "multiply"
    assert receipt["operators"][0]["template"] == "elementwise"
    assert receipt["operators"][0]["nodes"] == ["Mul_0"]
    assert sum(row["share"] for row in receipt["operators"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_library_shows_its_entries_and_needs_only_libc(package_for, name):
    data = open_package(package_for(name)).library.read_bytes()
    assert set(read_needed(data)) <= LIBC
    visible = {s.name for s in read_symbols(data, dynamic=True) if s.defined and not s.local}
    assert visible == {
        "edgecc_toy_v1",
        "edgecc_model_v1",
        "__tvm_ffi_main",
        "__tvm_ffi_toy",
        "__tvm_ffi_set_threads",
        "__TVMFFIErrorSetRaisedFromCStr",
    }
    assert read_symbols(data) == []  # stripped


@pytest.mark.parametrize("name", TARGETS)
def test_runtime_is_at_most_50_kilobytes(tmp_path, name):
    target = load_target(name)
    full = kernels.model(target)
    empty = dataclasses.replace(full, calls=(), weights=b"", objects=())
    folder = write_package(empty, target, tmp_path / "empty")
    assert (folder / "libtoy.so").stat().st_size <= 50 * 1024


def test_repeated_build_is_byte_identical(tmp_path, host):
    # Different destinations and empty caches: neither may leave a trace.
    program = kernels.model(host)
    a = write_package(program, host, tmp_path / "a", golden=kernels.golden())
    b = write_package(program, host, tmp_path / "elsewhere" / "b", golden=kernels.golden())
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes(), file.name
    data = (a / "libtoy.so").read_bytes()
    assert str(tmp_path).encode() not in data
    assert b".c\0" not in data


def test_new_weights_with_the_same_calls_are_linked(tmp_path, host):
    # The C compiler caches by the content of the source, which does not hold the weights.
    program = kernels.model(host)
    first = write_package(program, host, tmp_path / "m")
    old = (first / "libtoy.so").read_bytes()
    changed = dataclasses.replace(program, weights=program.weights[::-1])
    again = write_package(changed, host, tmp_path / "m")
    assert program.weights in old
    assert changed.weights in (again / "libtoy.so").read_bytes()


def test_an_earlier_package_is_replaced_and_other_folders_are_not(tmp_path, host):
    program = kernels.model(host)
    folder = write_package(program, host, tmp_path / "p", golden=kernels.golden())
    (folder / "stale.txt").write_text("x")
    write_package(program, host, folder)
    assert not (folder / "stale.txt").exists()
    assert not (folder / "golden.npz").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(EdgeccError, match="not empty and holds no package"):
        write_package(program, host, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "p"]


def test_unwritable_destination_is_one_line(tmp_path, host):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EdgeccError, match="can't write") as caught:
        write_package(kernels.model(host), host, tmp_path / "file" / "p")
    assert "\n" not in caught.value.message
    with pytest.raises(EdgeccError, match="not a folder"):
        write_package(kernels.model(host), host, tmp_path / "file")


def test_failed_link_leaves_the_earlier_package(tmp_path, host):
    program = kernels.model(host)
    folder = write_package(program, host, tmp_path / "p")
    before = (folder / "libtoy.so").read_bytes()
    with pytest.raises(EdgeccError, match="linking failed"):
        write_package(dataclasses.replace(program, objects=()), host, folder)
    assert (folder / "libtoy.so").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_interrupt_leaves_nothing(tmp_path, host, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(link_module, "zig", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_package(kernels.model(host), host, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_kernels_that_need_more_of_tvm_are_refused(tmp_path, host):
    source = "extern int TVMBackendParallelBarrier(int, void *);\n" + kernels.SOURCE.replace(
        "return count_positive", ""
    ).replace("*(int64_t *)n = count;", "*(int64_t *)n = count + TVMBackendParallelBarrier(0, x);")
    program = dataclasses.replace(
        kernels.model(host),
        objects=(kernels.compile_c(source, host.linker_triple, host.linker_cpu),),
    )
    with pytest.raises(EdgeccError, match="TVMBackendParallelBarrier"):
        write_package(program, host, tmp_path / "p")


def test_golden_data_must_fit(tmp_path, host):
    good = kernels.golden()
    bad = Golden({"x": good.inputs["x"].astype(np.float64)}, good.outputs, "numpy")
    with pytest.raises(EdgeccError, match="golden input 'x' is float64"):
        write_package(kernels.model(host), host, tmp_path / "p", golden=bad)
    assert list(tmp_path.iterdir()) == []


def test_quantization_is_in_the_manifest(tmp_path, host):
    folder = write_package(
        kernels.model(host), host, tmp_path / "p", quantization={"y": Quantization(0.5, -3)}
    )
    row = json.loads((folder / "manifest.json").read_text())["outputs"][0]
    assert (row["scale"], row["zero_point"]) == (0.5, -3)


def test_scratch_free_program_without_calls(tmp_path, host):
    program = dataclasses.replace(
        kernels.model(host), calls=(), weights=b"", objects=(), arena=ArenaPlan(0, 0, ())
    )
    folder = write_package(program, host, tmp_path / "p")
    import compiler

    with compiler.load(folder) as model:
        assert model.arena_bytes == 0
        model(np.zeros((10, 100), np.float32))


@pytest.mark.parametrize(("compiler_name", "suffix"), [("cc", "c"), ("c++", "cpp")])
def test_header_compiles_as_c99_and_cpp(package_for, tmp_path, compiler_name, suffix):
    folder = package_for("host")
    source = tmp_path / f"main.{suffix}"
    source.write_text(
        '#include "toy.h"\n#include "toy.h"\n'
        "int main(void) { return edgecc_toy_v1()->abi_version == 1 ? 0 : 1; }\n"
    )
    standard = "-std=c99" if suffix == "c" else "-std=c++11"
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-c", f"-I{folder}", "-o", "main.o"]
    environment = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(link_module.cache_dir() / "zig"))
    subprocess.run(
        [*f"{sys.executable} -m ziglang {compiler_name} {standard}".split(), *flags, source],
        check=True,
        env=environment,
        cwd=tmp_path,
    )


def test_header_example_compiles_and_runs(package_for, tmp_path):
    folder = package_for("host")
    text = (folder / "toy.h").read_text()
    comment = text[text.index("Usage") : text.index("*/")].splitlines()[2:]
    lines = [line.removeprefix(" *").strip() for line in comment if line.strip(" *")]
    assert len(lines) <= 13
    body = "\n".join(lines)
    source = tmp_path / "main.c"
    source.write_text(
        '#include <stdio.h>\n#include "toy.h"\nint main(void) {\n'
        f'{body}\nprintf("%g %lld\\n", output0[999], (long long)output1[0]);\nreturn 0; }}\n'
    )
    link_module.zig(
        [
            "-std=c11",
            "-Werror",
            "-Wall",
            f"-I{folder}",
            str(source),
            f"-L{folder}",
            "-ltoy",
            f"-Wl,-rpath,{folder}",
            "-o",
            "main",
        ],
        tmp_path,
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.25 1000\n"  # all inputs are 0
