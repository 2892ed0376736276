"""What a converter sees of one ONNX node: typed access to inputs and attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
import tvm.te
from tvm import relax

from compiler.errors import EdgeccError
from compiler.frontend.integers import IntegerConstants
from compiler.quantize.groups import emit_groups


class ConversionError(Exception):
    """A node that cannot be imported; the importer adds file and node to make it an EdgeccError."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NeedsConstantError(EdgeccError):
    """An operand steers a shape but is computed from these graph ``inputs``, at run time."""

    def __init__(self, message: str, hint: str, inputs: tuple[str, ...]) -> None:
        super().__init__(message, hint)
        self.inputs = inputs


class OperandNotConstantError(Exception):
    """Operand ``index`` of the node at hand must be a constant."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index
        self.what = what


def constant(array: np.ndarray) -> relax.Expr:
    """A Relax constant of exactly the array's dtype (relax.const would narrow float64)."""
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape)))


def shape_of(value: np.ndarray | relax.Expr) -> tuple[int, ...]:
    """Static shape of a constant or of a Relax tensor expression."""
    if isinstance(value, np.ndarray):
        return tuple(value.shape)
    if not isinstance(value.ty, relax.TensorType) or not isinstance(
        value.ty.shape, relax.ShapeExpr
    ):
        raise ConversionError("a shape depends on the data", "only static shapes can be compiled")
    dims = value.ty.shape.values
    if not all(isinstance(dim, tvm.tirx.IntImm) for dim in dims):
        raise ConversionError("a shape depends on the data", "only static shapes can be compiled")
    return tuple(int(dim) for dim in dims)


def dtype_of(value: np.ndarray | relax.Expr) -> str:
    """NumPy name of the element type."""
    return str(value.dtype) if isinstance(value, np.ndarray) else str(value.ty.dtype)


@dataclass
class Node:
    """One ONNX node with its operands, ready for conversion.

    Args:
        op: operator type; ``domain`` is "" for the standard operators.
        name: node name for the generated bindings, may be empty.
        opset: version of the domain's operator set.
        inputs: arrays where constant, Relax expressions otherwise, None where left out;
            sequences are Python lists of these.
        attrs: decoded attributes.
        outputs: names of outputs; "" where not wanted.
        builder: the open block builder.
        integers: what constants were stored as.
    """

    op: str
    domain: str
    name: str
    opset: int
    inputs: list[Any]
    attrs: Mapping[str, Any]
    outputs: Sequence[str]
    builder: relax.BlockBuilder
    make_constant: Callable[[np.ndarray], relax.Expr] = constant
    integers: IntegerConstants = field(default_factory=IntegerConstants)

    def has(self, index: int) -> bool:
        """Whether optional input ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def wants(self, index: int) -> bool:
        """Whether optional output ``index`` is used."""
        return index < len(self.outputs) and self.outputs[index] != ""

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)

    def __getitem__(self, index: int) -> relax.Expr:
        """Input ``index`` as a Relax expression; constants become Relax constants."""
        if not self.has(index):
            raise ConversionError(f"input {index} is missing")
        value = self.inputs[index]
        if isinstance(value, list):
            raise ConversionError("takes a sequence where a tensor is due")
        return self.make_constant(value) if isinstance(value, np.ndarray) else value

    def weight(self, index: int, order: list[int] | None = None) -> relax.Expr:
        """Input ``index`` as a factor, its axes in ``order``.

        A constant that is stored as integers stays so, with a dequantize behind it.
        """
        value = self.inputs[index] if self.has(index) else None
        if not isinstance(value, np.ndarray):
            return self.emit(relax.op.permute_dims(self[index], order)) if order else self[index]
        groups = self.integers.groups_of(value)
        if groups is not None and groups.transposed == (order is not None):
            return emit_groups(self.builder, groups.groups, self.name)
        stored = self.integers.of(value)
        if stored is not None:
            if order is None:
                integers = self.make_constant(stored.integers)
            else:
                stored = stored.transposed(order)
                integers = constant(stored.integers)
            return stored.emit(self.builder, integers)
        return self[index] if order is None else constant(value.transpose(order))

    def exprs(self) -> list[relax.Expr]:
        """All inputs as expressions, None where left out."""
        return [self[i] if self.has(i) else None for i in range(len(self.inputs))]

    def is_const(self, index: int) -> bool:
        return self.has(index) and isinstance(self.inputs[index], np.ndarray)

    def const(self, index: int, what: str) -> np.ndarray:
        """Input ``index`` as an array.

        Raises:
            OperandNotConstantError: it is computed at run time; ``what`` says what it steers.
        """
        if not self.has(index):
            raise ConversionError(f"input {index} ({what}) is missing")
        if not isinstance(self.inputs[index], np.ndarray):
            raise OperandNotConstantError(index, what)
        return self.inputs[index]

    def ints(self, index: int, what: str) -> list[int]:
        """A constant integer input as a flat list."""
        return [int(n) for n in self.const(index, what).reshape(-1)]

    def axes(self, index: int, rank: int) -> list[int] | None:
        """Non-negative axes from attribute "axes" or constant input ``index``; None if absent."""
        axes = self.attr("axes")
        if axes is None:
            if not self.has(index):
                return None
            axes = self.ints(index, "axes")
        return [self.axis_in(int(axis), rank) for axis in axes]

    def axis_in(self, axis: int, rank: int) -> int:
        if not -rank <= axis < max(rank, 1):
            raise ConversionError(f"axis {axis} does not exist in a tensor of rank {rank}")
        return axis + rank if axis < 0 else axis

    def shape(self, index: int) -> tuple[int, ...]:
        return shape_of(self.inputs[index])

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def dtype(self, index: int) -> str:
        return dtype_of(self.inputs[index])

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Binds ``expr`` to a variable, so that its type is known and it is computed once."""
        return self.builder.emit(expr, name_hint=self.name)

    def te(
        self, function: Callable, *args: Any, name: str, attrs: dict[str, Any] | None = None
    ) -> relax.Expr:
        """A kernel written as tensor expression.

        Args:
            function: takes a te.Tensor for each array or Relax expression among ``args``, and
                every other argument as it is.
            name: of the generated PrimFunc.
            attrs: of the generated PrimFunc.
        """
        tensors = [
            self.make_constant(a) if isinstance(a, np.ndarray) else a
            for a in args
            if isinstance(a, (np.ndarray, relax.Expr))
        ]

        def call(*placeholders: Any) -> Any:
            given = iter(placeholders)
            return function(
                *(next(given) if isinstance(a, (np.ndarray, relax.Expr)) else a for a in args)
            )

        return self.builder.emit_te(call, *tensors, primfunc_name_hint=name, primfunc_attrs=attrs)

    def scalar(self, value: float, dtype: str) -> relax.Expr:
        return constant(np.asarray(value, dtype=np_dtype(dtype)))


def reduce_axis(extent: int, name: str) -> tvm.tirx.IterVar:
    """A reduction axis whose variable is int64, as the spatial variables of Relax kernels are."""
    bounds = tvm.tirx.const(0, "int64"), tvm.tirx.const(int(extent), "int64")
    return tvm.te.reduce_axis(bounds, name)


def np_dtype(name: str) -> np.dtype:
    """NumPy dtype by name, ml_dtypes included."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
