"""Local response normalisation (LRN): each value over a power of its neighbouring channels' energy.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012,
section 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tvm import te, tirx

ATTRIBUTE = "edgecc.response_norm"


@dataclass(frozen=True)
class ResponseNorm:
    """y = x * (bias + alpha / size * sum of squares of ``size`` channels around x) ** -beta."""

    size: int
    alpha: float
    beta: float
    bias: float

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> ResponseNorm | None:
        """What a PrimFunc's attributes describe; None for any other function."""
        found = attrs.get(ATTRIBUTE) if attrs else None
        return None if found is None else cls(**json.loads(str(found)))

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes by which ``of`` recognises a PrimFunc."""
        return {ATTRIBUTE: json.dumps(asdict(self), sort_keys=True)}

    @property
    def before(self) -> int:
        """Channels of the window before the one in the middle."""
        return (self.size - 1) // 2

    def scale(self, energy: tirx.PrimExpr, dtype: str) -> tirx.PrimExpr:
        """The factor of x for a sum of squares."""
        base = energy * tirx.const(self.alpha / self.size, dtype) + tirx.const(self.bias, dtype)
        return tirx.pow(base, tirx.const(-self.beta, dtype))


def response_norm(x: te.Tensor, norm: ResponseNorm) -> te.Tensor:
    """The operator on [N, C, ...] in any float type."""
    channels = int(x.shape[1])
    zero = tirx.const(0, x.dtype)

    def element(n, c, *rest):
        energy = zero
        for shift in range(-norm.before, norm.size - norm.before):
            value = x[(n, c + shift, *rest)]
            inside = tirx.all(c + shift >= 0, c + shift < channels)
            energy = energy + tirx.if_then_else(inside, value * value, zero)
        return x[(n, c, *rest)] * norm.scale(energy, x.dtype)

    return te.compute(x.shape, element, name="response_norm")
