"""Tensors that are parts of one another's memory: who starts where.

A group is a set of tensors whose addresses differ by fixed numbers of bytes. A slice joins the
group of its source; a concatenation unites the groups of its parts, where no two tensors would
come to lie on one another.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import tvm
from tvm import relax

from compiler.passes.packed_values import shape_of

Key = TypeVar("Key", bound=Hashable)
Range = tuple[int, int]  # first byte, byte after the last


@dataclass
class _Plan(Generic[Key]):
    """What a concatenation would unite; offsets count from its own start."""

    shifts: dict[Key, int] = field(default_factory=dict)  # where each united group starts
    occupied: list[Range] = field(default_factory=list)
    placed: set[int] = field(default_factory=set)  # positions of parts that stay where they are


class Views(Generic[Key]):
    """Groups of tensors with fixed distances, keyed by anything hashable.

    ``add`` tensors and ``slice`` or ``concatenate`` them; ``locate`` tells where they are.
    """

    def __init__(self) -> None:
        self._parents: dict[Key, tuple[Key, int]] = {}
        # The tensors with memory of their own, from the start of the group that the key names.
        self._ranges: dict[Key, list[Range]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._parents

    def add(self, key: Key, nbytes: int) -> None:
        """A tensor with memory of its own, so far alone in its group."""
        self._parents[key] = (key, 0)
        self._ranges[key] = [(0, nbytes)]

    def slice(self, key: Key, source: Key, offset: int) -> None:
        """``key`` lies ``offset`` bytes behind the start of ``source``."""
        self._parents[key] = (source, offset)

    def locate(self, key: Key) -> tuple[Key, int]:
        """The group's name and the tensor's offset in it, which may be negative."""
        offset = 0
        while self._parents[key][0] != key:
            key, step = self._parents[key]
            offset += step
        return key, offset

    def extent(self, group: Key) -> Range:
        """First byte and byte after the last of a group, by its name."""
        ranges = self._ranges[group]
        return min(begin for begin, _ in ranges), max(end for _, end in ranges)

    def can_place(self, parts: Sequence[Key | None], sizes: Sequence[int]) -> set[int]:
        """Positions of the parts that can lie side by side; the others would need a copy.

        Args:
            parts: tensors of consecutive slots; None where nothing may be shared.
            sizes: bytes of each slot.
        """
        return self._plan(parts, sizes).placed

    def concatenate(self, key: Key, parts: Sequence[Key], sizes: Sequence[int]) -> None:
        """``key`` is the memory of the parts, one behind the other.

        Raises:
            ValueError: a part cannot lie where it must (see ``can_place``).
        """
        plan = self._plan(parts, sizes)
        if len(plan.placed) < len(parts):
            raise ValueError(f"the parts of {key} cannot lie side by side")
        self._parents[key] = (key, 0)
        self._ranges[key] = plan.occupied
        for group, shift in plan.shifts.items():
            self._parents[group] = (key, shift)
            del self._ranges[group]

    def _plan(self, parts: Sequence[Key | None], sizes: Sequence[int]) -> _Plan[Key]:
        slots = _slots(sizes)
        plan: _Plan[Key] = _Plan()
        # Large parts first: where two exclude one another, the smaller one is copied.
        for position in sorted(range(len(parts)), key=lambda p: -sizes[p]):
            part = parts[position]
            if part is not None:
                self._unite(plan, parts, slots, position, *self.locate(part))
        return plan

    def _unite(
        self,
        plan: _Plan[Key],
        parts: Sequence[Key | None],
        slots: list[Range],
        position: int,
        group: Key,
        offset: int,
    ) -> None:
        """Put one part's whole group in place, where nothing else is or will be there."""
        shift = slots[position][0] - offset
        if group in plan.shifts:
            if plan.shifts[group] == shift:
                plan.placed.add(position)
            return
        together = {
            p
            for p, part in enumerate(parts)
            if part is not None and self.locate(part) == (group, slots[p][0] - shift)
        }
        foreign = [r for p, r in enumerate(slots) if p not in plan.placed | together]
        moved = [(begin + shift, end + shift) for begin, end in self._ranges[group]]
        if any(_overlap(a, b) for a in moved for b in (*foreign, *plan.occupied)):
            return
        plan.shifts[group] = shift
        plan.occupied += moved
        plan.placed.add(position)


def _slots(sizes: Sequence[int]) -> list[Range]:
    slots, begin = [], 0
    for size in sizes:
        slots.append((begin, begin + size))
        begin += size
    return slots


def _overlap(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def slice_offset(call: relax.Call) -> int | None:
    """Byte offset of a ``strided_slice`` in its source; None where it is not one run of memory."""
    shape, result = shape_of(call.args[0]), shape_of(call)
    axes, begins, _, *strides = ([int(v.value) for v in a.fields] for a in call.args[1:])
    if strides and set(strides[0]) != {1}:
        return None
    cut = [axis for axis, (old, new) in enumerate(zip(shape, result, strict=True)) if old != new]
    if not cut:
        return 0
    if len(cut) > 1 or math.prod(shape[: cut[0]]) != 1:
        return None
    axis = cut[0]
    begin = next(b for a, b in zip(axes, begins, strict=True) if a % len(shape) == axis)
    begin = max(0, begin + shape[axis]) if begin < 0 else begin
    return begin * math.prod(shape[axis + 1 :]) * itemsize(call)


def lies_side_by_side(call: relax.Call) -> bool:
    """Whether the parts of a ``concat`` follow one another in its memory."""
    shape = shape_of(call)
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis) % len(shape)
    return math.prod(shape[:axis]) == 1


def itemsize(expr: relax.Expr) -> int:
    """Bytes of one element of a tensor."""
    dtype = tvm.DataType(str(expr.ty.dtype))
    return math.ceil(dtype.bits * dtype.lanes / 8)


def nbytes(expr: relax.Expr) -> int:
    """Bytes of a tensor."""
    return math.prod(shape_of(expr)) * itemsize(expr)
