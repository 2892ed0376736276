"""compiler.load: results, checks of inputs, timing."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

import compiler
from compiler.errors import EdgeccError
from compiler.package import write_package
from compiler.package.cpu import host_arch
from compiler.target import load_target
from tests.package import kernels


def x_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((10, 100), dtype=np.float32)


def check(outputs, x) -> None:
    y, n = kernels.reference(x)
    assert np.array_equal(outputs[0], y)
    assert outputs[1] == n
    assert outputs[1].shape == ()


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64, 1000])
def test_result_is_the_same_with_any_number_of_threads(toy, threads):
    with compiler.load(toy, threads) as model:
        assert model.threads == min(threads, 64)
        for seed in range(50):
            check(model(x_of(seed)), x_of(seed))


def test_threads_can_change(toy):
    with compiler.load(toy) as model:
        assert model.threads >= 1
        for threads in (1, 4, 2, 7):
            model.threads = threads
            assert model.threads == threads
            check(model(x_of(0)), x_of(0))


@pytest.mark.parametrize("spin", [(0, 0), (0, 100), (100, 0)])
def test_result_with_sleeping_and_spinning_workers(toy, spin):
    with compiler.load(toy, 4) as model:
        model.set_spin(*spin)
        for seed in range(200):
            check(model(x_of(seed)), x_of(seed))
        model.set_spin(50, 50)


def test_named_inputs_and_outputs(toy):
    with compiler.load(toy / "libtoy.so") as model:
        assert model.name == "toy"
        assert model.target == "host"
        assert [(t.name, t.dtype, t.shape) for t in model.outputs] == [
            ("y", "float32", (1000,)),
            ("n", "int64", ()),
        ]
        check(model(x=x_of(1)), x_of(1))
        outputs = model.run({"x": x_of(2)})
        check((outputs["y"], outputs["n"]), x_of(2))


def test_strided_input_is_copied(toy):
    with compiler.load(toy) as model:
        x = np.asfortranarray(x_of(3))
        check(model(x), x)
        check(model(x_of(3)[::-1]), np.ascontiguousarray(x_of(3)[::-1]))


def test_wrong_inputs_are_one_line_errors(toy):
    with compiler.load(toy) as model:
        with pytest.raises(EdgeccError, match="input 'x' is float64, the model wants float32"):
            model(x_of(0).astype(np.float64))
        with pytest.raises(EdgeccError, match=r"input 'x' has shape \(1000,\)"):
            model(x_of(0).reshape(-1))
        with pytest.raises(EdgeccError, match="no value for input 'x'"):
            model()
        with pytest.raises(EdgeccError, match="no input 'z'"):
            model(z=x_of(0))
        with pytest.raises(EdgeccError, match="given twice"):
            model(x_of(0), x=x_of(0))
        with pytest.raises(EdgeccError, match="2 inputs given, the model has 1"):
            model(x_of(0), x_of(0))
        check(model(x_of(0)), x_of(0))


def test_files_that_are_no_packages(tmp_path):
    with pytest.raises(EdgeccError, match=r"has no manifest\.json"):
        compiler.load(tmp_path)
    with pytest.raises(EdgeccError, match="does not exist"):
        compiler.load(tmp_path / "libx.so")
    (tmp_path / "libx.so").write_text("not a library")
    with pytest.raises(EdgeccError, match="not a library for Linux"):
        compiler.load(tmp_path / "libx.so")


def test_library_for_another_cpu_is_refused_before_it_is_loaded(tmp_path):
    name = "riscv64" if host_arch() != "riscv64" else "arm_cortex_a72"
    target = load_target(name)
    folder = write_package(kernels.model(target), target, tmp_path / "p")
    for path in (folder, folder / "libtoy.so"):
        with pytest.raises(EdgeccError, match=r"the target (riscv64|aarch64)"):
            compiler.load(path)


def test_closed_model(toy):
    model = compiler.load(toy)
    model.close()
    model.close()
    with pytest.raises(EdgeccError, match="is closed"):
        model(x_of(0))


def test_a_package_that_is_built_again_is_loaded_again(toy, broken, tmp_path):
    """While the first one is in use, too."""
    library = tmp_path / "lib.so"
    shutil.copy(toy / "libtoy.so", library)
    first = compiler.load(library)
    library.unlink()
    shutil.copy(broken / "libbroken.so", library)
    second = compiler.load(library)
    assert (first.name, second.name) == ("toy", "broken")
    check(first(x_of(0)), x_of(0))
    with pytest.raises(EdgeccError, match="broken"):
        second(x_of(0))
    assert compiler.load(library).name == "broken"


def test_many_instances_come_and_go(toy):
    for _ in range(20):
        models = [compiler.load(toy, threads) for threads in (1, 2, 4)]
        for seed, model in enumerate(models):
            check(model(x_of(seed)), x_of(seed))
        for model in models:
            model.close()


def test_instances_and_models_run_at_the_same_time(toy, other):
    """The pool serves one launch; the others run on their caller's thread. Results are the same."""
    errors: list[BaseException] = []

    def work(path, seed: int) -> None:
        try:
            with compiler.load(path, 2) as model:
                x = x_of(seed)
                for _ in range(500):
                    check(model(x), x)
        except BaseException as error:  # noqa: BLE001, RUF100 - reported by the main thread
            errors.append(error)

    workers = [
        threading.Thread(target=work, args=(path, seed))
        for seed, path in enumerate([toy, toy, other, other])
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []


def test_failing_operator_is_named(broken):
    for threads in (1, 4):
        with compiler.load(broken, threads) as model:
            for _ in range(3):
                with pytest.raises(EdgeccError) as caught:
                    model(x_of(0))
                message = caught.value.message
                assert "operator 2 (broken) failed with code -1" in message
                assert "ValueError: the sky fell" in message


def test_exhausted_workspace_is_named(tight):
    with (
        compiler.load(tight, 2) as model,
        pytest.raises(EdgeccError, match="needs 4000 bytes of workspace, 2048 are left"),
    ):
        model(x_of(0))


def test_bench_and_profile(toy):
    with compiler.load(toy, 1) as model:
        timing = model.bench({"x": x_of(0)}, warmup=2, min_runs=15, seconds=0.01)
        assert timing.runs >= 15
        assert timing.threads == 1
        assert 0 < timing.min_ms <= timing.median_ms <= timing.p90_ms
        rows = model.profile(runs=5)
        assert [row.label for row in rows] == ["multiply", 'add "quoted" \\ ü ??/', "count"]
        assert rows[0].macs == 1000
        assert rows[0].gflops == pytest.approx(2000 / (rows[0].ms * 1e6))
        assert sum(row.share for row in rows) == pytest.approx(1)
