"""Checks and conversions of what a caller passes as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo


def name_inputs(
    inputs: Sequence[TensorInfo], positional: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Dense arrays by input name, in the model's order, checked.

    Raises:
        EdgeccError: an input is missing, unknown, given twice, or has another dtype or shape.
    """
    names = [tensor.name for tensor in inputs]
    if len(positional) > len(names):
        raise EdgeccError(f"{len(positional)} inputs given, the model has {len(names)}")
    given = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise EdgeccError(f"the model has no input '{name}'", f"inputs: {', '.join(names)}")
        if name in given:
            raise EdgeccError(f"input '{name}' is given twice")
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise EdgeccError(f"no value for input '{missing[0]}'", f"inputs: {', '.join(names)}")
    return {tensor.name: check_input(tensor, given[tensor.name]) for tensor in inputs}


def check_input(tensor: TensorInfo, value: Any) -> np.ndarray:
    """`value` as a dense array.

    Raises:
        EdgeccError: its dtype or shape is not the model's.
    """
    array = np.asarray(value)
    if array.dtype != np.dtype(tensor.dtype):
        raise EdgeccError(
            f"input '{tensor.name}' is {array.dtype}, the model wants {tensor.dtype}",
            f"convert it: x.astype('{tensor.dtype}')",
        )
    if array.shape != tensor.shape:
        raise EdgeccError(
            f"input '{tensor.name}' has shape {array.shape}, the model wants {tensor.shape}"
        )
    return np.ascontiguousarray(array).reshape(tensor.shape)


def random_inputs(inputs: Sequence[TensorInfo], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded standard normal floats; 0 and 1 for integers and booleans."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for tensor in inputs:
        dtype = np.dtype(tensor.dtype)
        if dtype.kind in "iub":
            arrays[tensor.name] = rng.integers(0, 2, tensor.shape).astype(dtype)
        else:
            arrays[tensor.name] = rng.standard_normal(tensor.shape).astype(dtype)
        arrays[tensor.name] = arrays[tensor.name].reshape(tensor.shape)
    return arrays
