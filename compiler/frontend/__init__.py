"""ONNX -> Relax: shapes bound, constants folded; what can't be imported is named, with its node.

Stages, one file each: ``load`` reads and checks the file, ``bind`` gives the inputs shapes or
values, ``graph`` walks the nodes (``fold`` evaluates those of constants, ``functions`` inlines
control flow and functions) and ``converters`` turns what is left into Relax operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.program import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import tvm


@dataclass(frozen=True)
class ImportedModel:
    """A model as Relax.

    Args:
        name: C identifier from the file's stem.
        module: IRModule whose ``main`` takes exactly ``inputs`` in order and returns one tensor,
            or a tuple in the order of ``outputs``; all shapes static, weights constants.
        inputs: graph inputs that remain, with their ONNX names.
        outputs: graph outputs, with their ONNX names.
        sha256: hex digest of the model file and its external data.
    """

    name: str
    module: tvm.IRModule
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    sha256: str


def import_model(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    consts: Mapping[str, np.ndarray] | None = None,
) -> ImportedModel:
    """Imports an ONNX model with static shapes.

    Args:
        path: the .onnx file.
        shapes: extents of inputs whose shape the file leaves open, by input name.
        consts: values of inputs that become constants, by input name.

    Raises:
        EdgeccError: the file is refused, or cannot be imported; the message names what is at fault.
    """
    from compiler.frontend.convert import convert
    from compiler.frontend.load import load_model

    path = Path(path)
    loaded = load_model(path)
    module, inputs, outputs = convert(path, loaded.proto, shapes or {}, consts or {})
    return ImportedModel(loaded.name, module, inputs, outputs, loaded.sha256)


__all__ = ["ImportedModel", "import_model"]
