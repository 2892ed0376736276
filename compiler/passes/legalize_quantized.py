"""Quantize and dequantize operators that no integer kernel took, as float arithmetic.

Before:  quantize(x, scale, zero_point)
After:   one kernel that multiplies, rounds and saturates, and may join its neighbours
"""

from __future__ import annotations

import numpy as np
from tvm import relax, te

from compiler.passes import integer_ops
from compiler.passes.packed_values import constant_of
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE, Quantum, quantum_of


def _quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    quantum = quantum_of(call, QUANTIZE)
    if quantum is None:
        return call
    if quantum.per_tensor and quantum.dtype in ("int8", "uint8", "int16"):
        scale, zero = float(quantum.scale), int(quantum.zero_point)
        return builder.call_te(
            lambda x: integer_ops.quantize(x, scale, zero, quantum.dtype),
            call.args[0],
            primfunc_name_hint="quantize",
        )
    return _along_axis(builder, call.args[0], quantum, _quantize_along, "quantize")


def _dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    quantum = quantum_of(call, DEQUANTIZE)
    if quantum is None:
        return call
    value = constant_of(call.args[0])
    if value is not None:
        return relax.const(quantum.dequantize(value))
    if quantum.per_tensor:
        scale, zero = float(quantum.scale), int(quantum.zero_point)
        return builder.call_te(
            lambda x: integer_ops.dequantize(x, scale, zero),
            call.args[0],
            primfunc_name_hint="dequantize",
        )
    return _along_axis(builder, call.args[0], quantum, _dequantize_along, "dequantize")


def _along_axis(
    builder: relax.BlockBuilder, x: relax.Expr, quantum: Quantum, compute, name: str
) -> relax.Expr:
    """With scales and zero points as tables; of a tensor's one quantum a table of one."""
    scale = np.atleast_1d(quantum.scale)
    zero = np.atleast_1d(quantum.zero_point.astype("int32"))

    def element(x: te.Tensor, scales: te.Tensor, zeros: te.Tensor) -> te.Tensor:
        def at(*index):
            channel = 0 if quantum.per_tensor else index[quantum.axis]
            return compute(x[index], scales[channel], zeros[channel], quantum)

        return te.compute(x.shape, at, name=name)

    return builder.call_te(
        element, x, relax.const(scale), relax.const(zero), primfunc_name_hint=name
    )


def _quantize_along(x, scale, zero, quantum: Quantum):
    low, high = quantum.limits
    steps = te.round(x / scale)
    origin = zero.astype("float32")
    steps = te.max(te.min(steps, float(high) - origin), float(low) - origin)
    return (steps.astype("int32") + zero).astype(quantum.dtype)


def _dequantize_along(x, scale, zero, quantum: Quantum):
    return (x.astype("int32") - zero).astype("float32") * scale


LEGALIZATIONS = {QUANTIZE: _quantize, DEQUANTIZE: _dequantize}
