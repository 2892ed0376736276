"""Imports, compiles, runs and compares one backend test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compiler.frontend import ImportedModel, import_model
from compiler.frontend.node import NeedsConstantError
from tests.conformance.cases import Case
from tests.conformance.host import run_on_host


def import_case(
    path: Path, model: onnx.ModelProto, inputs: list[Any]
) -> tuple[ImportedModel, list[np.ndarray]]:
    """The model with the shapes of ``inputs``; inputs that must be constants are bound.

    Returns:
        The model, and those of ``inputs`` that it still takes.
    """
    inputs = [_array(value) for value in inputs]
    values = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
    tensors = (np.ndarray, np.generic)
    arrays = {name: np.asarray(v) for name, v in values.items() if isinstance(v, tensors)}
    consts: dict[str, np.ndarray] = {}
    while True:
        shapes = {
            name: array.shape
            for name, array in arrays.items()
            if name not in consts and not _is_static(model, name)
        }
        try:
            imported = import_model(path, shapes, consts)
            return imported, [arrays[info.name] for info in imported.inputs]
        except NeedsConstantError as error:
            missing = [name for name in error.inputs if name not in consts]
            if not missing:
                raise
            consts.update({name: arrays[name] for name in missing})


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _is_static(model: onnx.ModelProto, name: str) -> bool:
    value = next(value for value in model.graph.input if value.name == name)
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)


def run_case(case: Case, folder: Path) -> None:
    """Raises AssertionError where results differ, anything else where the case does not run."""
    path = folder / "model.onnx"
    model = case.model()
    onnx.save(model, path)
    for inputs, expected in case.data():
        imported, arguments = import_case(path, model, inputs)
        results = run_on_host(imported, arguments)
        compare(results, expected, case.test.rtol, case.test.atol)


def compare(results: list[np.ndarray], expected: list[Any], rtol: float, atol: float) -> None:
    assert len(results) == len(expected)
    for result, reference in zip(results, map(_array, expected), strict=True):
        assert isinstance(reference, np.ndarray | np.generic), "not a tensor"
        assert result.dtype == reference.dtype, f"{result.dtype} instead of {reference.dtype}"
        assert result.shape == reference.shape, f"{result.shape} instead of {reference.shape}"
        if result.dtype.kind == "b":
            np.testing.assert_array_equal(result, reference)
        else:
            np.testing.assert_allclose(result, reference, rtol=rtol, atol=atol)
