"""Checks of ``TensorProto``: the declared shape must agree with the bytes that are there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EdgeccError
from compiler.frontend import limits

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Fields of TensorProto that hold the elements of each type when raw_data does not.
_COMPLEX = ("COMPLEX64", "COMPLEX128")


def element_bits(data_type: int) -> int:
    """Bits of one stored element; 0 where the type is unknown or has no fixed size."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    try:
        name = onnx.TensorProto.DataType.Name(data_type)
    except ValueError:
        return 0
    if name in ("UNDEFINED", "STRING"):
        return 0
    packed = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    return packed.get(name) or 8 * tensor_dtype_to_np_dtype(data_type).itemsize


def declared_elements(path: Path, owner: str, tensor: onnx.TensorProto) -> int:
    """Product of the dimensions, refused when it is absurd."""
    if len(tensor.dims) > limits.MAX_RANK or any(dim < 0 for dim in tensor.dims):
        raise EdgeccError(
            f"{path}: {owner} has the impossible shape {tuple(tensor.dims)[:20]}",
            "the file is damaged; fetch or export it again",
        )
    return math.prod(tensor.dims)


def check_tensor(path: Path, owner: str, tensor: onnx.TensorProto) -> int:
    """Compares declared shape and stored data without unpacking them.

    Returns:
        Bytes of the tensor.

    Raises:
        EdgeccError: unknown element type, impossible shape, or too few or too many elements.
    """
    import onnx
    from onnx.helper import tensor_dtype_to_field

    count = declared_elements(path, owner, tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        _compare(path, owner, tensor, len(tensor.string_data), count, "strings")
        return sum(len(text) for text in tensor.string_data)
    bits = element_bits(tensor.data_type)
    if not bits:
        raise EdgeccError(
            f"{path}: {owner} has the unknown element type {tensor.data_type}",
            "the file is damaged, or newer than the installed onnx package",
        )
    nbytes = (count * bits + 7) // 8
    if tensor.HasField("raw_data"):
        _compare(path, owner, tensor, len(tensor.raw_data), nbytes, "bytes")
        return nbytes
    stored = len(getattr(tensor, tensor_dtype_to_field(tensor.data_type)))
    if onnx.TensorProto.DataType.Name(tensor.data_type) in _COMPLEX:
        count *= 2
    elif bits < 8:
        count = nbytes
    _compare(path, owner, tensor, stored, count, "elements")
    return nbytes


def _compare(
    path: Path, owner: str, tensor: onnx.TensorProto, stored: int, needed: int, unit: str
) -> None:
    if stored != needed:
        raise EdgeccError(
            f"{path}: {owner} has shape {tuple(tensor.dims)} and needs {needed} {unit}, "
            f"but the file holds {stored}",
            "the file is damaged or truncated; fetch or export it again",
        )


def to_numpy(tensor: onnx.TensorProto) -> np.ndarray:
    """The tensor's value; packed 4-bit types come out one element a byte (ml_dtypes)."""
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)
