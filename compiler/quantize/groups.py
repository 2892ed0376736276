"""Weights in groups along the reduction: the interchange form of weight-only quantisation.

A matrix [K, N] has a scale (and maybe a zero point) for each of G = ceil(K / group) groups of
neighbouring rows, and each column:

    w[k, n] = (q[k, n] - zero_point[k // group, n]) * scale[k // group, n]

``relax.dequantize`` knows scales along one axis only, so such weights are a kernel of their own,
called with ``call_tir``: a function of the integers, scales and zero points that computes the real
matrix, marked by attributes. Where no product takes the integers it runs as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax, te

# Function attributes: rows of a group, and bits of an integer.
_GROUP, _BITS = "edgecc.weight_group", "edgecc.weight_bits"
BITS = (4, 8)


@dataclass(frozen=True, eq=False)
class Groups:
    """A matrix [K, N] as integers.

    Args:
        integers: int8 [K, N]; of 4 bits 0 to 15.
        scale: float32 [G, N].
        zero_point: int8 [G, N].
        group: rows that share them; the last ones may be fewer.
        bits: 4 or 8.
    """

    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    group: int
    bits: int

    @property
    def columns(self) -> int:
        return int(self.integers.shape[1])

    @property
    def common_zero(self) -> int | None:
        """The zero point of all groups; None where they differ."""
        first = int(self.zero_point.reshape(-1)[0])
        return first if (self.zero_point == first).all() else None

    def dequantize64(self) -> np.ndarray:
        """float64 [K, N]."""
        rows = np.arange(len(self.integers)) // self.group
        centred = self.integers.astype("int32") - self.zero_point[rows]
        return centred * self.scale[rows].astype("float64")


def value_of(expr: relax.Expr) -> np.ndarray | None:
    """The value of a constant."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def emit_groups(builder: relax.BlockBuilder, weights: Groups, name: str = "") -> relax.Var:
    """The real matrix of constant integers."""
    group = weights.group

    def real(q: te.Tensor, scale: te.Tensor, zero: te.Tensor) -> te.Tensor:
        def element(k, n):
            centred = q[k, n].astype("int32") - zero[k // group, n].astype("int32")
            return centred.astype("float32") * scale[k // group, n]

        return te.compute(q.shape, element, name="dequantize_groups")

    call = builder.call_te(
        real,
        *map(relax.const, (weights.integers, weights.scale, weights.zero_point)),
        primfunc_name_hint="dequantize_groups",
        primfunc_attrs={_GROUP: group, _BITS: weights.bits},
    )
    return builder.emit(call, name_hint=name)


def groups_of(expr: relax.Expr | None, module: tvm.IRModule) -> Groups | None:
    """What ``emit_groups`` was given; None for any other expression.

    Args:
        module: whose functions it calls.
    """
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") != "relax.call_tir":
        return None
    attrs = module[expr.args[0]].attrs
    if not attrs or _GROUP not in attrs:
        return None
    integers, scale, zero = (value_of(field) for field in expr.args[1].fields)
    if integers is None or scale is None or zero is None:
        return None
    return Groups(integers, scale, zero, int(attrs[_GROUP]), int(attrs[_BITS]))
