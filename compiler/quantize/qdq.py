"""The interchange form of quantised models: quantize and dequantize operators of Relax.

Whatever is quantised, here or by others, is written with these two before it is lowered to integer
arithmetic (``compiler/passes/integer.py``). Scales and zero points are constants. The semantics are
those of ONNX's QuantizeLinear and DequantizeLinear:

    q = saturate(round_half_even(x / scale) + zero_point)        x = (q - zero_point) * scale

They have scales along one axis at most. Weights whose scales also change along the reduction are
kernels of their own (``groups``), and so are rows of a table with a scale each (``rows``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

QUANTIZE = "relax.quantize"
DEQUANTIZE = "relax.dequantize"
DTYPES = ("int8", "uint8", "int16", "uint16", "int32")


@dataclass(frozen=True, eq=False)
class Quantum:
    """How real numbers become integers.

    Args:
        scale: float32, of rank 0, or of rank 1 with one value for each index along ``axis``.
        zero_point: of the stored dtype, shaped as ``scale``.
        axis: which axis of the tensor the values belong to; counts for rank 1 alone.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    @staticmethod
    def of(scale: float | np.ndarray, zero_point: int | np.ndarray, dtype: str, axis: int = 0):
        """From numbers or arrays that broadcast against each other; one value means per tensor."""
        scales, zeros = np.broadcast_arrays(
            np.asarray(scale, "float32"), np.asarray(zero_point).astype(dtype)
        )
        shape = () if scales.size == 1 else (scales.size,)
        return Quantum(scales.reshape(shape).copy(), zeros.reshape(shape).copy(), axis)

    @property
    def dtype(self) -> str:
        return str(self.zero_point.dtype)

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest stored integer."""
        info = np.iinfo(self.zero_point.dtype)
        return int(info.min), int(info.max)

    @property
    def per_tensor(self) -> bool:
        return self.scale.ndim == 0

    @property
    def is_symmetric(self) -> bool:
        return not self.zero_point.any()

    def same_as(self, other: Quantum) -> bool:
        """Whether both store every real number as the same integer."""
        return (
            self.dtype == other.dtype
            and (self.per_tensor or self.axis == other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def along(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(scale, zero_point), int32, shaped to broadcast against a tensor of a rank."""
        shape = () if self.per_tensor else tuple(-1 if a == self.axis else 1 for a in range(rank))
        return self.scale.reshape(shape), self.zero_point.astype("int32").reshape(shape)

    def all_values(self) -> np.ndarray:
        """Every stored integer, the least first."""
        low, high = self.limits
        return np.arange(low, high + 1).astype(self.dtype)

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Real numbers as stored integers."""
        scale, zero = self.along(real.ndim)
        low, high = self.limits
        steps = np.rint(real.astype("float32") / scale) + zero
        return np.clip(steps, low, high).astype(self.dtype)

    def quantize64(self, real: np.ndarray) -> np.ndarray:
        """As ``quantize``, of float64 numbers that were never rounded to float32."""
        scale, zero = self.along(real.ndim)
        steps = np.rint(real / scale.astype("float64")) + zero
        return np.clip(steps, *self.limits).astype(self.dtype)

    def dequantize64(self, stored: np.ndarray) -> np.ndarray:
        """float64 values of stored integers."""
        scale, zero = self.along(stored.ndim)
        return (stored.astype("int64") - zero) * scale.astype("float64")

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """float32 values of stored integers."""
        scale, zero = self.along(stored.ndim)
        return ((stored.astype("int32") - zero).astype("float32") * scale).astype("float32")


def emit_quantize(builder: relax.BlockBuilder, x: relax.Expr, quantum: Quantum) -> relax.Var:
    """float ``x`` as integers."""
    scale, zero = relax.const(quantum.scale), relax.const(quantum.zero_point)
    axis = _axis(quantum, x)
    return builder.emit(relax.op.quantize(x, scale, zero, axis, quantum.dtype))


def emit_dequantize(builder: relax.BlockBuilder, q: relax.Expr, quantum: Quantum) -> relax.Var:
    """Integers ``q`` as float32."""
    scale, zero = relax.const(quantum.scale), relax.const(quantum.zero_point)
    return builder.emit(relax.op.dequantize(q, scale, zero, _axis(quantum, q), "float32"))


def _axis(quantum: Quantum, x: relax.Expr) -> int:
    rank = len(x.ty.shape)
    return quantum.axis % rank if rank and not quantum.per_tensor else 0 if rank else -1


def quantum_of(expr: relax.Expr, kind: str) -> Quantum | None:
    """The parameters of a call of ``kind`` (QUANTIZE or DEQUANTIZE) with constant parameters.

    None for anything else. The stored dtype is that of the integer side, whatever the zero point's.
    """
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") != kind:
        return None
    scale, zero = expr.args[1:3]
    if not all(isinstance(e, tvm.ir.GenericConst) for e in (scale, zero)):
        return None
    stored = expr if kind == QUANTIZE else expr.args[0]
    axis = int(expr.attrs.axis)
    rank = len(expr.ty.shape)
    return Quantum.of(
        scale.value.numpy(), zero.value.numpy(), str(stored.ty.dtype), axis % rank if rank else 0
    )
