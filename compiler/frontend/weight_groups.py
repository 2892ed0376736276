"""Constant matrices that a model stores in groups of integers, as ``compiler.quantize.groups``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compiler.quantize.groups import Groups

if TYPE_CHECKING:
    from compiler.frontend.node import Node

# Stored dtype -> bits, and what makes an integer one of ``Groups``.
_TYPES = {"int4": (4, 8), "uint4": (4, 0), "int8": (8, 0), "uint8": (8, -128)}
# Rows of a group are whole words of values of 4 bits.
_WORD = 8


@dataclass(frozen=True, eq=False)
class StoredGroups:
    """Args:
    groups: of a matrix, or of its transpose.
    """

    groups: Groups
    transposed: bool = False

    def flipped(self) -> StoredGroups:
        return replace(self, transposed=not self.transposed)


def of_dequantize(node: Node, axis: int) -> StoredGroups | None:
    """The groups of a DequantizeLinear of constants: in blocks, or of 4 bits along an axis.

    None for what is no float32 matrix, or per channel in 8 bits.
    """
    integers, scale = node.inputs[:2]
    dtype = str(integers.dtype)
    if integers.ndim != 2 or scale.dtype != np.float32 or dtype not in _TYPES:
        return None
    if not integers.size or node.attr("output_dtype", 1) not in (0, 1):
        return None
    zero = node.inputs[2] if node.has(2) else np.zeros(scale.shape, integers.dtype)
    if zero.dtype != integers.dtype or not np.isfinite(scale).all():
        return None
    bits, shift = _TYPES[dtype]
    block = int(node.attr("block_size", 0))
    if scale.ndim < 2:
        if bits != 4 or scale.size not in (1, integers.shape[axis]):
            return None
        # one group of all rows
        axis = 1 - axis if scale.size > 1 else axis
        extent = integers.shape[axis]
        block = -(-extent // _WORD) * _WORD
        shape = [1 if a == axis else n for a, n in enumerate(integers.shape)]
        scale, zero = (np.broadcast_to(_along(v, axis), shape) for v in (scale, zero))
    counts = [n if a != axis else -(-n // max(block, 1)) for a, n in enumerate(integers.shape)]
    if not block or list(scale.shape) != counts or list(zero.shape) != counts:
        return None
    arrays = [integers.astype("int16") + shift, scale, zero.astype("int16") + shift]
    if axis == 1:
        arrays = [a.T for a in arrays]
    made = [np.ascontiguousarray(a) for a in arrays]
    groups = Groups(made[0].astype("int8"), made[1], made[2].astype("int8"), block, bits)
    return StoredGroups(groups, axis == 1)


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """One value, or one for each index of the axis that is not reduced."""
    flat = values.reshape(-1)
    return flat[None, :] if axis == 0 else flat[:, None]


def of_nbits(
    packed: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None,
    shape: tuple[int, int],
    block: int,
    bits: int,
) -> Groups | None:
    """The weights of com.microsoft's MatMulNBits.

    Args:
        packed: uint8 [N, G, block * bits / 8], the first of two values in the lower half.
        scale: N * G values.
        zero: as ``packed`` along G, or one of a float type for each scale; None: the middle.
        shape: (K, N).

    Returns:
        None for zero points that are no integers of these bits.
    """
    depth, columns = shape
    groups = -(-depth // block)
    codes = _unpacked(packed.reshape(columns, groups, -1), bits).reshape(columns, -1)
    scales = scale.astype("float32").reshape(columns, groups)
    if zero is None:
        zeros = np.full(scales.shape, 1 << (bits - 1), "int16")
    elif zero.dtype == np.uint8:
        zeros = _unpacked(zero.reshape(columns, -1), bits)[:, :groups]
    else:
        real = zero.astype("float32").reshape(columns, groups)
        zeros = np.rint(real).astype("int16")
        if (zeros != real).any() or zeros.min() < 0 or zeros.max() >= 1 << bits:
            return None
    shift = 128 if bits == 8 else 0
    codes, zeros = (v.astype("int16") - shift for v in (codes[:, :depth], zeros))
    made = [np.ascontiguousarray(v.T) for v in (codes, scales, zeros)]
    return Groups(made[0].astype("int8"), made[1], made[2].astype("int8"), block, bits)


def _unpacked(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of 4 bits, two a byte, as bytes along the last axis."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)
