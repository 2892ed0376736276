"""Kernels along one axis of a tensor, indifferent to all other axes: the steps of a resize.

Later stages recognise them by an attribute and may apply them to another layout of the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tvm import te, tirx

ATTRIBUTE = "edgecc.along_axis"


@dataclass(frozen=True)
class AxisOp:
    """One of ``FUNCTIONS``, applied along an axis.

    Args:
        repeat: copies of each element, for "repeated".
    """

    function: str
    axis: int
    repeat: int = 1

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> AxisOp | None:
        """What a PrimFunc's attributes describe; None for any other function."""
        found = attrs.get(ATTRIBUTE) if attrs else None
        return None if found is None else cls(**json.loads(str(found)))

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes by which ``of`` recognises a PrimFunc."""
        return {ATTRIBUTE: json.dumps(asdict(self), sort_keys=True)}

    def __call__(self, x: te.Tensor, *tables: te.Tensor) -> te.Tensor:
        """The tensor expression over x and the function's tables."""
        return FUNCTIONS[self.function](self, x, *tables)

    def along(self, index: tuple[tirx.PrimExpr, ...], position: tirx.PrimExpr) -> tuple:
        """An index with another position along the axis."""
        return (*index[: self.axis], position, *index[self.axis + 1 :])

    def shape(self, x: te.Tensor, extent: int) -> list[int]:
        """x's shape with another extent of the axis."""
        return [*x.shape[: self.axis], extent, *x.shape[self.axis + 1 :]]


def _repeated(op: AxisOp, x: te.Tensor) -> te.Tensor:
    return te.compute(
        op.shape(x, int(x.shape[op.axis]) * op.repeat),
        lambda *i: x(*op.along(i, i[op.axis] // op.repeat)),
        name="resize_nearest",
    )


def _taken(op: AxisOp, x: te.Tensor, index: te.Tensor) -> te.Tensor:
    """index: [out], the source position of each result."""
    return te.compute(
        op.shape(x, index.shape[0]),
        lambda *i: x(*op.along(i, index(i[op.axis]))),
        name="resize_nearest",
    )


def _interpolated(op: AxisOp, x: te.Tensor, index: te.Tensor, weight: te.Tensor) -> te.Tensor:
    """index, weight: [out, taps], the source positions of each result and their weights."""

    def element(*i: tirx.PrimExpr) -> tirx.PrimExpr:
        terms = [
            x(*op.along(i, index(i[op.axis], tap))) * weight(i[op.axis], tap)
            for tap in range(int(index.shape[1]))
        ]
        return sum(terms[1:], terms[0])

    return te.compute(op.shape(x, index.shape[0]), element, name="resize_interpolated")


FUNCTIONS: dict[str, Callable[..., te.Tensor]] = {
    "repeated": _repeated,
    "taken": _taken,
    "interpolated": _interpolated,
}
