"""The compiled model as plain data: what codegen hands to the packager.

A program is a straight list of kernel calls over four address spaces. Nothing here knows TVM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

ALIGNMENT = 64  # bytes; of the arena, the weights and everything in them


def align(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class TensorInfo:
    """A named model input or output.

    Args:
        name: as in the ONNX graph.
        dtype: NumPy name ("float32", "int64", "bool", ...).
        shape: static extents; () for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Space(str, Enum):
    """Where an argument of a kernel lives."""

    INPUT = "input"  # offset is the index of the model input
    OUTPUT = "output"  # offset is the index of the model output
    ARENA = "arena"  # offset in bytes from the arena's start
    WEIGHTS = "weights"  # offset in bytes from the start of the read-only weights


@dataclass(frozen=True)
class Location:
    space: Space
    offset: int


@dataclass(frozen=True)
class KernelCall:
    """One call ``int32_t symbol(void *arg0, ..., void *argN)``; 0 means success.

    Args:
        symbol: C name of the kernel in the object code.
        args: input buffers, then output buffers, all aligned to their element size.
        label: what a person reads in a profile, e.g. "conv2d+add+relu".
        nodes: names of the ONNX nodes it computes, where known.
        macs: multiply-accumulates of one call (0 where there are none).
        nbytes: bytes read and written, each tensor counted once.
        report: further columns of the receipt (template, dtype, intrinsic, tuned, ...).
    """

    symbol: str
    args: tuple[Location, ...]
    label: str
    nodes: tuple[str, ...] = ()
    macs: int = 0
    nbytes: int = 0
    report: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """A tensor in the arena, live from call ``first`` to call ``last``, both inclusive."""

    name: str
    offset: int
    nbytes: int
    first: int
    last: int
    in_place_of: str | None = None  # the tensor whose memory it takes over
    part_of: str | None = None  # the tensor or group of tensors that it is a view of


@dataclass(frozen=True)
class ArenaPlan:
    """Static memory plan. ``peak_live`` is the lower bound: most bytes live during one call."""

    nbytes: int
    peak_live: int
    allocations: tuple[Allocation, ...]
    scratch_bytes: int = 0  # kernel workspace for each thread; placed behind nbytes by the runtime


@dataclass(frozen=True)
class Program:
    """A whole compiled model.

    Args:
        name: C identifier of the model.
        weights: all constants, laid out as the WEIGHTS locations say; start aligned to 64 bytes.
        objects: relocatable object files of the kernels for the target.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    calls: tuple[KernelCall, ...]
    arena: ArenaPlan
    weights: bytes
    objects: tuple[bytes, ...]
