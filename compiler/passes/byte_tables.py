"""Functions of one byte between stored integers as tables of 256.

Before:  q: int8 -> dequantize -> hard-swish, or x * quantised sigmoid(x), ... -> quantize
After:   look_up(q, table)

Whatever element-wise operators with constants lie between: there are 256 inputs, so the result is
computed for each of them when compiling, in float32 as ONNX says. Even the simplest function takes
longer on every target, although a lookup is a pass over memory of its own: ten instructions make a
vector of floats of bytes, and bytes of it. Where others read a real number on the way, all stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax, te

from compiler.passes.packed_followers import ELEMENTWISE, UNARY
from compiler.passes.packed_ops import OPAQUE
from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.readers import Readers
from compiler.passes.rewriter import Rewriter
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE, quantum_of
from compiler.quantize.reference_ops import EVALUATORS
from compiler.target import Target

ENTRIES = 256
# Of the kernel that looks bytes up.
ATTRIBUTE = "edgecc.byte_table"
# Tables of fewer bytes are not worth a kernel.
FEWEST = ENTRIES
_BYTES = ("int8", "uint8")
OPERATORS = frozenset(f"relax.{name}" for name in (*UNARY, *ELEMENTWISE)) & EVALUATORS.keys()


def has_whole_tables(target: Target) -> bool:
    """Whether a group of registers holds a table, on RISC-V with vectors of known length."""
    return target.arch == "riscv64" and target.has_known_vector_length and target.vector.bits >= 256


def use_byte_tables(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite ``main``; a graph without such functions stays as it is."""
    tables = _Functions(module["main"]).tables()
    if not tables:
        return module
    return relax.transform.DeadCodeElimination()(_Tables(tables).rewrite(module))


def look_up(x: te.Tensor, table: te.Tensor) -> te.Tensor:
    """table[x] of bytes of any shape, counted from 0 where they are signed: -1 is 255."""
    return te.compute(
        x.shape, lambda *i: table[x[i].astype("uint8").astype("int32")], name="look_up"
    )


def emit_look_up(builder: relax.BlockBuilder, x: relax.Expr, table: relax.Expr) -> relax.Var:
    """The kernel, of a stored tensor and a constant of 256 bytes."""
    attrs = {**OPAQUE, ATTRIBUTE: True}
    return builder.emit_te(look_up, x, table, primfunc_name_hint="look_up", primfunc_attrs=attrs)


@dataclass(frozen=True, eq=False)
class _Function:
    """What a variable is of a stored tensor.

    Args:
        values: for each byte of the tensor, counted from 0: float64, or integers.
        through: the variables on the way.
    """

    source: relax.Var
    values: np.ndarray
    through: frozenset[relax.Var]

    def table(self) -> np.ndarray | None:
        """None where nothing is to be looked up."""
        dtype = str(self.source.ty.dtype)
        same = np.array_equal(self.values, _all_bytes(dtype)) and self.values.dtype == dtype
        return None if same else self.values


class _Functions:
    """The functions of bytes in a graph."""

    def __init__(self, main: relax.Function) -> None:
        self.found: dict[relax.Var, _Function] = {}
        self.readers = Readers(main)
        self.stored: set[relax.Var] = set()  # quantised or dequantised: others may read it
        self.quantized: list[relax.Var] = []
        for block in main.body.blocks:
            for binding in block.bindings:
                function = self._function(binding.var, binding.value)
                if function is not None:
                    self.found[binding.var] = function

    def tables(self) -> dict[relax.Var, _Function]:
        """What becomes a table, by the result of its quantize."""
        return {
            var: f
            for var in self.quantized
            if (f := self.found.get(var)) is not None
            and math.prod(shape_of(var)) >= FEWEST
            and self._is_private(var, f)
        }

    def _is_private(self, result: relax.Var, function: _Function) -> bool:
        """Whether nobody else reads the real numbers on the way."""
        inside = function.through | {result}
        return all(self.readers.of(v) <= inside for v in function.through - self.stored)

    def _function(self, var: relax.Var, value: relax.Expr) -> _Function | None:
        if isinstance(value, relax.Var):
            function = self._of(value)
            return function and replace(function, through=function.through | {value})
        if not isinstance(value, relax.Call):
            return None
        name = getattr(value.op, "name", "")
        if name in (QUANTIZE, DEQUANTIZE):
            return self._converted(var, value, name)
        return self._computed(value, name) if name in OPERATORS else None

    def _of(self, expr: relax.Expr) -> _Function | None:
        """Of a stored tensor that is no function of another, itself."""
        if not isinstance(expr, relax.Var):
            return None
        if expr not in self.found and isinstance(expr.ty, relax.TensorType):
            dtype = str(expr.ty.dtype)
            if dtype in _BYTES:
                self.stored.add(expr)
                return _Function(expr, _all_bytes(dtype), frozenset())
        return self.found.get(expr)

    def _converted(self, var: relax.Var, call: relax.Call, name: str) -> _Function | None:
        quantum, function = quantum_of(call, name), self._of(call.args[0])
        if quantum is None or function is None or not quantum.per_tensor:
            return None
        if quantum.dtype not in _BYTES or str(call.ty.dtype) not in ("float32", *_BYTES):
            return None
        convert: Callable[[np.ndarray], np.ndarray] = quantum.quantize
        if name == DEQUANTIZE:
            convert = quantum.dequantize
        else:
            self.quantized.append(var)
        self.stored.add(var)
        with np.errstate(all="ignore"):
            values = _rounded(convert(function.values))
        through = function.through | {call.args[0]}
        return _Function(function.source, values, through)

    def _computed(self, call: relax.Call, name: str) -> _Function | None:
        operands: list[np.ndarray | relax.Expr] = []
        functions: list[_Function] = []
        for argument in call.args:
            known = constant_of(argument)
            function = self._of(argument)
            if known is not None:
                if known.size != 1:
                    return None
                operands.append(_rounded(known.reshape(-1)))
            elif function is not None:
                functions.append(function)
                operands.append(function.values)
            elif isinstance(argument, relax.Var):
                return None
            else:
                operands.append(argument)
        if not functions or any(f.source is not functions[0].source for f in functions):
            return None
        source = functions[0].source
        if shape_of(call) != shape_of(source):
            return None
        with np.errstate(all="ignore"):
            values = EVALUATORS[name](call, *operands)
        if values is None:
            return None
        through = frozenset(a for a in call.args if isinstance(a, relax.Var)).union(
            *(f.through for f in functions)
        )
        return _Function(source, _rounded(np.asarray(values)), through)


class _Tables(Rewriter):
    def __init__(self, tables: dict[relax.Var, _Function]) -> None:
        super().__init__()
        self.tables = tables
        self.handlers[QUANTIZE] = self._quantize

    def _quantize(self, call: relax.Call) -> relax.Expr | None:
        function = self.tables.get(self.bound)
        if function is None:
            return None
        source, table = self.plain(function.source), function.table()
        return source if table is None else emit_look_up(self.builder, source, relax.const(table))


def _all_bytes(dtype: str) -> np.ndarray:
    """The values of bytes 0 to 255."""
    return np.arange(ENTRIES, dtype="uint8").view(dtype)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Real numbers as float32 holds them, in float64."""
    return values.astype("float32").astype("float64") if values.dtype.kind == "f" else values
