"""Constants that a model stores as integers: what they stand for, and what they were.

A weight behind DequantizeLinear is known at compile time as floats, and every converter may use
it so. Those that multiply by weights ask ``Node.weight`` instead, which brings the integers back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from compiler.frontend import integer_arithmetic
from compiler.frontend.weight_groups import StoredGroups, of_dequantize
from compiler.quantize.movement import permuted, reshaped
from compiler.quantize.qdq import DTYPES, Quantum, emit_dequantize

if TYPE_CHECKING:
    from compiler.frontend.node import Node

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_DOMAINS = ("", "com.microsoft")


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant as integers of 8 or 16 bits."""

    integers: np.ndarray
    quantum: Quantum

    def moved(self, node: Node, shape: tuple[int, ...]) -> Stored | None:
        """What a data movement of ``shape`` makes of it; None where that cannot be said."""
        if node.op == "Transpose":
            rank = self.integers.ndim
            order = [a % rank for a in node.attr("perm") or range(rank - 1, -1, -1)]
            return self.transposed(order)
        quantum = reshaped(self.quantum, self.integers.shape, shape)
        return Stored(self.integers.reshape(shape), quantum) if quantum else None

    def transposed(self, order: list[int]) -> Stored:
        integers = np.ascontiguousarray(self.integers.transpose(order))
        return Stored(integers, permuted(self.quantum, order))

    def gathered(self, axis: int, rank: int) -> Stored:
        """The same with the axis behind that of the quantum's, or before, replaced by others.

        Args:
            axis: which one indices of ``rank`` took; not the quantum's own.
        """
        behind = not self.quantum.per_tensor and self.quantum.axis > axis
        moved = self.quantum.axis + (rank - 1 if behind else 0)
        return replace(self, quantum=replace(self.quantum, axis=moved))

    def emit(self, builder: relax.BlockBuilder, integers: relax.Expr) -> relax.Expr:
        """dequantize(``integers``), the constant of ``self.integers``."""
        return emit_dequantize(builder, integers, self.quantum)


class IntegerConstants:
    """The arrays of a model that were dequantised at compile time."""

    def __init__(self) -> None:
        self._stored: dict[int, tuple[np.ndarray, Stored]] = {}
        self._groups: dict[int, tuple[np.ndarray, StoredGroups]] = {}

    def of(self, array: np.ndarray) -> Stored | None:
        """The integers behind a float array."""
        found = self._stored.get(id(array))
        return found[1] if found else None

    def groups_of(self, array: np.ndarray) -> StoredGroups | None:
        """The groups of integers behind a float matrix."""
        found = self._groups.get(id(array))
        return found[1] if found else None

    def keep_groups(self, real: np.ndarray, stored: StoredGroups) -> None:
        self._groups[id(real)] = (real, stored)

    def dequantize(self, integers: np.ndarray, quantum: Quantum) -> np.ndarray:
        """float32 values of ``integers``, whose origin is kept unless they are of 32 bits."""
        real = quantum.dequantize(integers)
        if quantum.dtype != "int32":
            self._keep(real, _as_signed(Stored(integers, quantum)))
        return real

    def follow(self, node: Node, results: list[Any]) -> list[Any]:
        """Keeps the integers of what the evaluation of a node made, where it has some."""
        known = node.inputs and all(isinstance(value, np.ndarray) for value in node.inputs)
        if known and node.domain == "":
            groups = self.groups_of(node.inputs[0])
            if groups is not None and node.op == "Transpose":
                self.keep_groups(results[0], groups.flipped())
            stored = self._made(node, results[0])
            if stored is not None:
                self._keep(results[0], stored)
        return results

    def _made(self, node: Node, result: np.ndarray) -> Stored | None:
        if node.op == "Cast":
            found = integer_arithmetic.cast(node, result)
            return Stored(*found) if found else None
        stored = self.of(node.inputs[0])
        if node.op in (*_RESHAPES, "Transpose"):
            return stored.moved(node, result.shape) if stored else None
        if node.op not in ("Sub", "Mul"):
            return None
        other = node.inputs[1]
        if stored is None and node.op == "Mul":
            stored, other = self.of(other), node.inputs[0]
        if stored is None or result.shape != stored.integers.shape:
            return None
        step = integer_arithmetic.shifted if node.op == "Sub" else integer_arithmetic.scaled
        quantum = step(stored, other)
        if quantum is None:
            return None
        made = replace(stored, quantum=quantum)
        return _as_signed(made) if node.op == "Mul" else made

    def _keep(self, real: np.ndarray, stored: Stored) -> None:
        self._stored[id(real)] = (real, stored)


def _as_signed(stored: Stored) -> Stored:
    """Weights of uint8 as int8: value and zero point are shifted alike."""
    quantum = stored.quantum
    if quantum.dtype != "uint8":
        return stored
    zero = (quantum.zero_point.astype("int16") - 128).astype("int8")
    integers = (stored.integers.astype("int16") - 128).astype("int8")
    return Stored(integers, Quantum(quantum.scale, zero, quantum.axis))


def quantum_at(node: Node, like: int, scale: int, zero: int, dtype: str, axis: int):
    """The quantum that inputs ``scale`` and ``zero`` of a node give to its input ``like``.

    Args:
        dtype: of the integers.
        axis: which axis of ``like`` scales of rank 1 belong to.

    Returns:
        None where the interchange form has no place for it: known at run time alone, blocked, of
        other types, or with scales that are no positive numbers.
    """
    if not node.is_const(scale) or (node.has(zero) and not node.is_const(zero)):
        return None
    scales = node.inputs[scale]
    zeros = node.inputs[zero] if node.has(zero) else np.zeros((), dtype)
    if scales.dtype != np.float32 or dtype not in DTYPES or str(zeros.dtype) != dtype:
        return None
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        return None
    shape = node.shape(like)
    for values in (scales, zeros):
        if values.size != 1 and not (values.ndim == 1 and shape and values.size == shape[axis]):
            return None
    if math.prod(shape) and scales.size * zeros.size == 0:
        return None
    return Quantum.of(scales.reshape(-1), zeros.reshape(-1), dtype, axis)


def fold(node: Node) -> np.ndarray | None:
    """The result of QuantizeLinear or DequantizeLinear of a constant; None for anything else."""
    if node.domain not in _DOMAINS or not all(node.is_const(i) for i in range(len(node.inputs))):
        return None
    if node.op == "DequantizeLinear":
        return _fold_dequantize(node)
    if node.op == "QuantizeLinear":
        quantum = quantum_at(node, 0, 1, 2, stored_dtype(node), axis_of(node))
        if quantum is not None and node.dtype(0) == "float32":
            return quantum.quantize(node.inputs[0])
    return None


def _fold_dequantize(node: Node) -> np.ndarray | None:
    quantum = quantum_at(_without_dead_channels(node), 0, 1, 2, node.dtype(0), axis_of(node))
    if quantum is None or node.attr("output_dtype", 1) not in (0, 1):
        return _fold_groups(node)
    integers = node.inputs[0]
    if (node.inputs[1] == 0).any():
        alive = Quantum.of(node.inputs[1], 0, quantum.dtype, quantum.axis).along(integers.ndim)[0]
        integers = np.where(alive == 0, quantum.along(integers.ndim)[1], integers)
    return node.integers.dequantize(integers.astype(quantum.dtype), quantum)


def _fold_groups(node: Node) -> np.ndarray | None:
    stored = of_dequantize(node, axis_of(node))
    if stored is None:
        return None
    real = stored.groups.dequantize64().astype("float32")
    real = np.ascontiguousarray(real.T) if stored.transposed else real
    node.integers.keep_groups(real, stored)
    return real


def _without_dead_channels(node: Node) -> Node:
    """Weights that are zero come with the scale 0 from some quantisers; they need none."""
    scales = node.inputs[1]
    if scales.size > 1 and (scales == 0).any():
        inputs = [node.inputs[0], np.where(scales == 0, np.ones_like(scales), scales)]
        return replace(node, inputs=inputs + node.inputs[2:])
    return node


def axis_of(node: Node) -> int:
    """The axis of QuantizeLinear and DequantizeLinear; 0 for scalars."""
    rank = node.rank(0)
    axis = node.attr("axis", 1)
    # the default may lie beyond vectors, whose scale is one number then
    return (axis + rank if axis < 0 else min(axis, rank - 1)) if rank else 0


def stored_dtype(node: Node) -> str:
    """What QuantizeLinear makes."""
    from onnx.helper import tensor_dtype_to_np_dtype

    if node.has(2):
        return node.dtype(2)
    wanted = node.attr("output_dtype", 0)
    return str(tensor_dtype_to_np_dtype(wanted)) if wanted else "uint8"
