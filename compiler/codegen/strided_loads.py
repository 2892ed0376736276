"""Loads of every second or third element as whole vectors and a shuffle.

The code generator loads the lanes of a strided vector one by one. With a small stride all lanes lie
in a few neighbouring vectors:

    before:  A[ramp(base, 2, 8)]
    after:   shuffle([A[ramp(base, 1, 8)], A[ramp(base + 7, 1, 8)]], [0, 2, 4, 6, 9, 11, 13, 15])

The last vector ends at the last element asked for, so that nothing behind the tensor is read.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

LARGEST_STRIDE = 3


def shuffle_strided_loads(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite strided vector loads; run after loops are vectorised."""

    def visit(load: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        load = mutator.default_mutate(load)
        if len(load.indices) != 1 or not isinstance(load.indices[0], tirx.Ramp):
            return load
        ramp = load.indices[0]
        if not isinstance(ramp.stride, tirx.IntImm) or not isinstance(ramp.lanes, tirx.IntImm):
            return load
        stride, lanes = int(ramp.stride), int(ramp.lanes)
        if not 2 <= stride <= LARGEST_STRIDE or lanes < 4:
            return load
        return _shuffled(load, ramp.base, stride, lanes)

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(TensorLoad, visit)]))


def _shuffled(load: TensorLoad, base: tirx.PrimExpr, stride: int, lanes: int) -> tirx.PrimExpr:
    last = stride * (lanes - 1)
    # Neighbouring vectors from the first element on; the last one is moved back to end in time.
    starts = [min(k * lanes, last + 1 - lanes) for k in range(stride)]
    one = tirx.IntImm(str(base.ty.dtype), 1)
    vectors = [
        tirx.BufferLoad(load.source, [tirx.Ramp(base + start, one, lanes)]) for start in starts
    ]
    positions = []
    for lane in range(lanes):
        element = stride * lane
        vector = min(element // lanes, stride - 1)
        positions.append(vector * lanes + element - starts[vector])
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", p) for p in positions])
