"""Sequences and optionals, resolved while importing: a sequence is a Python list of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.converters.shape import slice_axis
from compiler.frontend.node import ConversionError, Node


def _items(node: Node, index: int = 0) -> list[Any]:
    value = node.inputs[index]
    if not isinstance(value, list):
        raise ConversionError(f"input {index} must be a sequence")
    return value


def _position(node: Node, index: int, length: int, default: int) -> int:
    if not node.has(index):
        return default
    position = int(node.const(index, "position").reshape(-1)[0])
    if not -length - 1 <= position <= length:
        raise ConversionError(f"position {position} of a sequence of {length}")
    return position + length if position < 0 else position


@converter("SequenceConstruct")
def construct(node: Node) -> list[Any]:
    return [list(node.inputs)]


@converter("SequenceEmpty")
def empty(node: Node) -> list[Any]:
    return [[]]


@converter("SequenceAt")
def at(node: Node) -> Any:
    items = _items(node)
    position = _position(node, 1, len(items), 0)
    if position >= len(items):
        raise ConversionError(f"position {position} of a sequence of {len(items)}")
    return items[position]


@converter("SequenceInsert")
def insert(node: Node) -> list[Any]:
    items = list(_items(node))
    items.insert(_position(node, 2, len(items), len(items)), node.inputs[1])
    return [items]


@converter("SequenceErase")
def erase(node: Node) -> list[Any]:
    items = list(_items(node))
    del items[_position(node, 1, len(items), len(items) - 1)]
    return [items]


@converter("SequenceLength")
def length(node: Node) -> np.ndarray:
    return np.asarray(len(_items(node)), np.int64)


@converter("ConcatFromSequence")
def concat(node: Node) -> Any:
    parts = [node.make_constant(i) if isinstance(i, np.ndarray) else i for i in _items(node)]
    axis = node.attr("axis")
    if node.attr("new_axis", 0):
        parts = [node.emit(relax.op.expand_dims(part, axis)) for part in parts]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis)


@converter("SplitToSequence")
def split(node: Node) -> list[Any]:
    dims = node.shape(0)
    axis = node.axis_in(node.attr("axis", 0), len(dims))
    keep = True
    if not node.has(1):
        sizes, keep = [1] * dims[axis], bool(node.attr("keepdims", 1))
    elif node.rank(1) == 0:
        chunk = node.ints(1, "split")[0]
        if chunk < 1:
            raise ConversionError(f"cannot split into parts of {chunk}")
        sizes = [min(chunk, dims[axis] - begin) for begin in range(0, dims[axis], chunk)]
    else:
        sizes = node.ints(1, "split")
    if sum(sizes) != dims[axis] or any(n < 1 for n in sizes):
        raise ConversionError(f"cannot split {dims[axis]} elements into {sizes[:16]}")
    parts, begin = [], 0
    for size in sizes:
        part = node.emit(slice_axis(node[0], axis, begin, begin + size))
        parts.append(part if keep else node.emit(relax.op.squeeze(part, [axis])))
        begin += size
    return [parts]


@converter("Optional")
def optional(node: Node) -> list[Any]:
    return [node.inputs[0] if node.inputs else None]


@converter("OptionalHasElement")
def has_element(node: Node) -> np.ndarray:
    return np.asarray(bool(node.inputs) and node.inputs[0] is not None)


@converter("OptionalGetElement")
def get_element(node: Node) -> list[Any]:
    if node.inputs[0] is None:
        raise ConversionError("takes the element of an empty optional")
    return [node.inputs[0]]
