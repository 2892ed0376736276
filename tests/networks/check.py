"""Build an ONNX model for a target, run it there and compare every output with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from compiler.codegen import compile_module
from compiler.frontend import import_model
from compiler.package import open_package, write_package
from compiler.package.runner import CannotRunError, Runner
from compiler.passes import optimize
from compiler.program import Program
from compiler.runtime.arrays import random_inputs
from compiler.target import Target, load_target
from tests.bochs.machine import BochsRunner


def compile_onnx(path: Path, target: Target, **options) -> Program:
    """A model file as a Program for the target."""
    imported = import_model(path, **options)
    module = optimize(imported.module, target)
    return compile_module(module, target, imported.name, imported.inputs, imported.outputs)


def reference(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def runner_of(program: Program, machine: Target, folder: Path) -> Runner:
    """Runs the program here, under qemu-user, or in Bochs where this is an x86 without AVX-512."""
    package = open_package(write_package(program, machine, folder / "package"))
    try:
        return Runner(package)
    except CannotRunError as error:
        if machine.arch != "x86_64":
            pytest.skip(error.message)
        return BochsRunner(package)


def check(
    model: onnx.ModelProto | Path,
    target: str,
    folder: Path,
    tolerance: float = 1e-4,
    inputs: Mapping[str, np.ndarray] | None = None,
    consts: Mapping[str, np.ndarray] | None = None,
    threads: int = 2,
    **options,
) -> Program:
    """Assert that the model's outputs on the target agree with ONNX Runtime's.

    Where this machine cannot run an x86 target, Bochs does.

    Args:
        tolerance: largest difference over the largest magnitude, for each output.
        consts: inputs that are compiled in.
        threads: the result must be the same bits with one thread and with so many.
        options: of ``import_model``.
    """
    path = model if isinstance(model, Path) else folder / "model.onnx"
    if not isinstance(model, Path):
        onnx.checker.check_model(model)
        onnx.save(model, path)
    machine = load_target(target)
    program = compile_onnx(path, machine, consts=consts or {}, **options)
    runner = runner_of(program, machine, folder)
    inputs = inputs or random_inputs(program.inputs)
    got = runner.run(inputs, threads)
    for name, want in reference(path, {**inputs, **(consts or {})}).items():
        assert got[name].shape == want.shape, name
        assert got[name].dtype == want.dtype, name
        if want.size == 0:
            continue
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], want, err_msg=name)
            continue
        scale = max(float(np.abs(want).max()), 1e-6)
        error = float(np.abs(got[name].astype(np.float64) - want).max()) / scale
        assert error <= tolerance, f"{name}: relative error {error:.2e}"
    return program
