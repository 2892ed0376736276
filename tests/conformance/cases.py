"""The onnx package's own backend tests as plain cases."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx

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


@lru_cache(maxsize=1)
def load_cases() -> tuple[Case, ...]:
    """All cases, in a fixed order; node tests are made with a fixed seed by the onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(
            Case(kind, test.name, test)
            for kind in KINDS
            for test in sorted(load_model_tests(kind=kind), key=lambda test: test.name)
        )
