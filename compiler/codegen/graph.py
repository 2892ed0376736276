"""Read a fused Relax ``main`` as a list of kernel calls over numbered buffers.

Reshapes are aliases: they cost nothing. Concatenations and slices are views: buffers at a fixed
distance from others. Every other buffer is a model input, a constant or the result of a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from compiler.codegen.lower import dtype_bytes
from compiler.passes.aliases import ALIAS_OPS
from compiler.passes.views import Views, slice_offset


@dataclass
class Buffer:
    """A tensor's memory. At most one of ``input_index`` and ``constant`` is set."""

    nbytes: int
    dtype: str
    input_index: int | None = None
    constant: np.ndarray | None = None
    producer: int | None = None  # index into Graph.calls


@dataclass
class Call:
    function: str  # name of the PrimFunc in the module
    inputs: list[int]
    outputs: list[int]


@dataclass
class Graph:
    """Calls in execution order; integers index ``buffers``.

    Args:
        views: where the buffers that kernels compute lie to one another.
    """

    buffers: list[Buffer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    views: Views[int] = field(default_factory=Views)


def read_graph(module: tvm.IRModule) -> Graph:
    """Turn ``main`` (call_tir, reshapes, views, tuples) into a Graph."""
    return _Reader().read(module["main"])


class _Reader:
    def __init__(self) -> None:
        self.graph = Graph()
        self.values: dict[relax.Var, Any] = {}  # buffer index, or a list of them for a tuple
        self.constants: dict[tuple[str, bytes], int] = {}

    def read(self, main: relax.Function) -> Graph:
        for index, param in enumerate(main.params):
            self.values[param] = self._new_buffer(param.ty, input_index=index)
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._value(binding.value)
        result = self._value(main.body.body)
        self.graph.outputs = result if isinstance(result, list) else [result]
        return self.graph

    def _value(self, expr: relax.Expr) -> Any:
        if isinstance(expr, tvm.ir.GenericConst):
            return self._constant(expr)
        if isinstance(expr, relax.Tuple):
            return [self._value(field_) for field_ in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.Call):
            return self._call(expr)
        return self.values[expr]

    def _call(self, call: relax.Call) -> Any:
        name = getattr(call.op, "name", str(call.op))
        if name in ALIAS_OPS:
            return self._value(call.args[0])
        if name == "relax.strided_slice":
            offset = slice_offset(call)
            assert offset is not None, "place_views leaves only slices that are views"
            view = self._new_buffer(call.ty)
            self.graph.views.slice(view, self._value(call.args[0]), offset)
            return view
        if name == "relax.concat":
            view, parts = self._new_buffer(call.ty), self._value(call.args[0])
            self.graph.views.concatenate(view, parts, [self.graph.buffers[p].nbytes for p in parts])
            return view
        if name != "relax.call_tir":
            raise NotImplementedError(f"{name} was not lowered to a loop nest")
        arguments = [self._value(a) for a in call.args[1].fields]
        results = call.ty_args[0]
        is_tuple = isinstance(results, relax.TupleType)
        index = len(self.graph.calls)
        outputs = [
            self._new_buffer(r, producer=index) for r in (results.fields if is_tuple else [results])
        ]
        for output in outputs:
            self.graph.views.add(output, self.graph.buffers[output].nbytes)
        self.graph.calls.append(Call(call.args[0].name_hint, arguments, outputs))
        return outputs if is_tuple else outputs[0]

    def _constant(self, expr: tvm.ir.GenericConst) -> int:
        array = expr.value.numpy()
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self.constants:
            self.graph.buffers.append(Buffer(array.nbytes, str(array.dtype), constant=array))
            self.constants[key] = len(self.graph.buffers) - 1
        return self.constants[key]

    def _new_buffer(self, ty: Any, **where: Any) -> int:
        dtype = str(ty.dtype)
        nbytes = math.prod(int(d) for d in ty.shape) * dtype_bytes(dtype)
        self.graph.buffers.append(Buffer(nbytes, dtype, **where))
        return len(self.graph.buffers) - 1
