"""Binds the graph's inputs: to static shapes, or to constant values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import EdgeccError
from compiler.frontend import limits
from compiler.program import TensorInfo

if TYPE_CHECKING:
    import onnx

SUPPORTED_DTYPES = (
    "float32",
    "float16",
    "float64",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)


@dataclass(frozen=True)
class Bindings:
    """What the graph's inputs are.

    Args:
        inputs: those that stay inputs of the compiled model, in graph order.
        constants: values of the others, by name.
    """

    inputs: tuple[TensorInfo, ...]
    constants: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Declared:
    """An input as the file declares it; a dimension is an extent, a symbol, or "" if unknown."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None


def bind_inputs(
    path: Path,
    graph: onnx.GraphProto,
    shapes: Mapping[str, tuple[int, ...]],
    consts: Mapping[str, np.ndarray],
) -> Bindings:
    """Decides shape or value of every graph input.

    An unknown dimension takes its value from ``shapes``, for the input itself or for another one
    that shares the symbol.

    Raises:
        EdgeccError: unknown name, unsupported type, mismatch, or dimensions left unknown.
    """
    initialized = {tensor.name for tensor in graph.initializer}
    declared = {value.name: value for value in graph.input}
    for option, names in (("--shape", shapes), ("--const", consts)):
        for name in names:
            _check_known(path, option, name, declared)
    free = [name for name in declared if name not in initialized and name not in consts]
    for name in shapes:
        if name not in free:
            raise EdgeccError(
                f"{path}: --shape {name}: this input is a constant",
                "leave the option out",
            )
    constants = {
        name: _constant(path, _declare(path, declared[name]), value)
        for name, value in consts.items()
    }
    inputs = [_declare(path, declared[name]) for name in free]
    symbols = _bind_symbols(path, inputs, shapes)
    return Bindings(_static(path, inputs, shapes, symbols), constants)


def _check_known(path: Path, option: str, name: str, declared: Mapping[str, object]) -> None:
    if name not in declared:
        close = difflib.get_close_matches(name, declared, n=1)
        inputs = ", ".join(declared) or "none"
        hint = f"did you mean '{close[0]}'?" if close else f"the inputs are: {inputs}"
        raise EdgeccError(f"{path}: {option} {name}: the model has no such input", hint)


def _declare(path: Path, value: onnx.ValueInfoProto) -> _Declared:
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        what = (kind or "unknown type").replace("_type", "")
        raise EdgeccError(
            f"{path}: input '{value.name}' is no tensor but: {what}",
            "only tensors can be inputs of a compiled model",
        )
    tensor = value.type.tensor_type
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(tensor.elem_type) if known else str(tensor.elem_type)
    dtype = ""
    if known and name not in ("UNDEFINED", "STRING"):
        dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type))
    if dtype not in SUPPORTED_DTYPES:
        raise EdgeccError(
            f"{path}: input '{value.name}' has element type {name.lower()}, which is not supported",
            f"supported are: {', '.join(SUPPORTED_DTYPES)}",
        )
    if not tensor.HasField("shape"):
        return _Declared(value.name, dtype, None)
    dims: list[int | str] = []
    for dim in tensor.shape.dim:
        dims.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param)
    if len(dims) > limits.MAX_RANK:
        raise EdgeccError(f"{path}: input '{value.name}' has {len(dims)} dimensions", "at most 16")
    return _Declared(value.name, dtype, tuple(d if d != -1 else "" for d in dims))


def _constant(path: Path, declared: _Declared, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    numeric = value.dtype.kind in "biuf"
    with np.errstate(all="ignore"):
        converted = value.astype(declared.dtype) if numeric else value
    # floats may be rounded to the input's precision, everything else must be kept
    rounds = converted.dtype.kind == value.dtype.kind == "f"
    if not numeric or not (rounds or np.array_equal(converted, value)):
        raise EdgeccError(
            f"{path}: --const {declared.name}: {value.dtype} values do not fit "
            f"the input's type {declared.dtype}",
            f"give values that {declared.dtype} can hold",
        )
    _check_shape(path, "--const", declared, value.shape)
    return converted


def _check_shape(path: Path, option: str, declared: _Declared, shape: tuple[int, ...]) -> None:
    if declared.dims is None:
        return
    fits = len(shape) == len(declared.dims) and all(
        isinstance(dim, str) or dim == extent
        for dim, extent in zip(declared.dims, shape, strict=True)
    )
    if not fits:
        raise EdgeccError(
            f"{path}: {option} {declared.name}: shape {_text(shape)} does not fit "
            f"{_text(declared.dims)}, which the model declares",
            "named and unknown (?) dimensions are free, numbers are fixed",
        )


def _bind_symbols(
    path: Path, inputs: list[_Declared], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    symbols: dict[str, tuple[int, str]] = {}
    for declared in inputs:
        if declared.name not in shapes:
            continue
        shape = tuple(int(extent) for extent in shapes[declared.name])
        if any(extent < 1 for extent in shape):
            raise EdgeccError(
                f"{path}: --shape {declared.name}: {_text(shape)} has an extent below 1",
                "all extents must be positive",
            )
        _check_shape(path, "--shape", declared, shape)
        for dim, extent in zip(declared.dims or (), shape, strict=False):
            if not isinstance(dim, str) or not dim:
                continue
            if symbols.setdefault(dim, (extent, declared.name))[0] != extent:
                first, other = symbols[dim]
                raise EdgeccError(
                    f"{path}: --shape {declared.name}: dimension '{dim}' is {extent} here, "
                    f"but {first} for input '{other}'",
                    "dimensions of one name must agree",
                )
    return {dim: extent for dim, (extent, _) in symbols.items()}


def _static(
    path: Path,
    inputs: list[_Declared],
    shapes: Mapping[str, tuple[int, ...]],
    symbols: Mapping[str, int],
) -> tuple[TensorInfo, ...]:
    bound = []
    unknown = []
    for declared in inputs:
        if declared.name in shapes:
            shape: tuple[int | str, ...] = tuple(int(n) for n in shapes[declared.name])
        elif declared.dims is None:
            unknown.append(declared)
            continue
        else:
            shape = tuple(
                symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in declared.dims
            )
        if any(isinstance(dim, str) or dim < 0 for dim in shape):
            unknown.append(declared)
            continue
        info = TensorInfo(declared.name, declared.dtype, tuple(int(dim) for dim in shape))
        if info.nbytes > limits.MAX_TENSOR_BYTES:
            raise EdgeccError(
                f"{path}: input '{info.name}' of shape {_text(info.shape)} takes "
                f"{info.nbytes} bytes (limit 2 GiB)",
                f"give a smaller shape: --shape {info.name}=...",
            )
        bound.append(info)
    if unknown:
        what = "; ".join(f"'{d.name}' is {_text(d.dims)}" for d in unknown)
        flags = " ".join(f"--shape {d.name}={_example(d.dims)}" for d in unknown)
        raise EdgeccError(
            f"{path}: the shape of {'an input is' if len(unknown) == 1 else 'inputs is'} "
            f"not fully known: {what}",
            f"bind it, for example: {flags}",
        )
    return tuple(bound)


def _text(dims: tuple[int | str, ...] | None) -> str:
    if dims is None:
        return "of unknown rank"
    return "x".join(str(dim) if dim != "" else "?" for dim in dims) or "scalar"


def _example(dims: tuple[int | str, ...] | None) -> str:
    """A plausible shape that fits ``dims``: batch 1, pictures 224 wide, sequences of 128."""
    if dims is None:
        return "1x3x224x224"
    filler = 224 if len(dims) == 4 else 128
    sizes = []
    for axis, dim in enumerate(dims):
        if isinstance(dim, int) and dim >= 0:
            sizes.append(dim)
        elif axis == 0:
            sizes.append(1)
        else:
            sizes.append(3 if len(dims) == 4 and axis == 1 else filler)
    return "x".join(str(size) for size in sizes)
