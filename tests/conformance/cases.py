"""The onnx package's own backend tests as plain cases."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx.reference.ops.op_pool_common import pool

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One backend test; ``data`` gives (inputs, outputs) pairs, read on demand."""

    kind: str
    name: str
    test: Any

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"

    def model(self) -> onnx.ModelProto:
        if self.test.model is not None:
            return self.test.model
        return onnx.load(os.path.join(self.test.model_dir, "model.onnx"))

    def data(self) -> list[tuple[list[Any], list[Any]]]:
        if self.test.data_sets is not None:
            return self.test.data_sets
        model = self.model()
        folders = sorted(Path(self.test.model_dir).glob("test_data_set_*"))
        return [
            (
                _read(folder, "input", [value.type for value in model.graph.input]),
                _read(folder, "output", [value.type for value in model.graph.output]),
            )
            for folder in folders
        ]


def _read(folder: Path, stem: str, types: list[onnx.TypeProto]) -> list[Any]:
    values = []
    for index in range(len(list(folder.glob(f"{stem}_*.pb")))):
        data = (folder / f"{stem}_{index}.pb").read_bytes()
        if types[index].HasField("sequence_type"):
            values.append(onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif types[index].HasField("optional_type"):
            values.append(onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            values.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return values


def _pool(padded: np.ndarray, x_shape: Any, kernel: Any, *rest: Any, **named: Any) -> np.ndarray:
    """What the onnx package expects of pools, which it computes in Python number by number: ten
    seconds for the three cases in three dimensions."""
    if len(kernel) < 3 or len(rest) != 3 or set(named) - {"p"}:
        return pool(padded, x_shape, kernel, *rest, **named)
    strides, out, kind = rest
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3, 4))
    view = view[:, :, :: strides[0], :: strides[1], :: strides[2]]
    assert view.shape[2:5] == tuple(out)
    axes = (5, 6, 7)
    if kind == "LPPOOL":
        p = named.get("p", 1)
        return ((np.abs(view) ** p).sum(axis=axes) ** (1 / p)).astype(padded.dtype)
    return {"AVG": np.mean, "MAX": np.max}[kind](view, axis=axes)


@lru_cache(maxsize=1)
def load_cases() -> tuple[Case, ...]:
    """All cases, in a fixed order; node tests are made with a fixed seed by the onnx package."""
    from onnx.reference.ops import op_pool_common

    with warnings.catch_warnings(), patch.object(op_pool_common, "pool", _pool):
        from onnx.backend.test.loader import load_model_tests

        warnings.simplefilter("ignore")
        return tuple(
            Case(kind, test.name, test)
            for kind in KINDS
            for test in sorted(load_model_tests(kind=kind), key=lambda test: test.name)
        )
