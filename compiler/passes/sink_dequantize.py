"""Move data as integers: dequantize goes down through what only moves it, quantize goes up.

Before:  quantize(concat(max_pool2d(dequantize(a)), relu(conv2d(...))))
After:   concat(max_pool2d(a), quantize(conv2d(...)))

Both directions are exact: the elements stay the same, and rounding keeps their order. Where they
meet with equal quanta both vanish; a pair of different ones is one requantisation. A clip
disappears in a quantize whose range ends there already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from compiler.passes.integer_moves import MOVEMENTS, Movement, movement_of
from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.qdq import (
    DEQUANTIZE,
    QUANTIZE,
    Quantum,
    emit_dequantize,
    emit_quantize,
    quantum_of,
)

_CLIPS = ("relax.nn.relu", "relax.nn.relu6", "relax.clip")
_INTEGER_CLIPS = ("relax.maximum", "relax.minimum")


def sink_dequantize(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite ``main``; a graph that is not quantised stays as it is."""
    bindings = [b for block in module["main"].body.blocks for b in block.bindings]
    if not any(_name(b.value) in (QUANTIZE, DEQUANTIZE) for b in bindings):
        return module
    rewritten = _Sinker(module, {b.var: b.value for b in bindings}).rewrite(module)
    return relax.transform.DeadCodeElimination()(rewritten)


def _name(expr: relax.Expr | None) -> str:
    return getattr(expr.op, "name", "") if isinstance(expr, relax.Call) else ""


def _bounds(call: relax.Call) -> tuple[float, float]:
    """Lower and upper end of a clip."""
    if call.op.name == "relax.clip":
        low, high = (float(b.value) for b in call.args[1:3])
        return low, high
    return 0.0, 6.0 if call.op.name == "relax.nn.relu6" else float("inf")


@dataclass(frozen=True, eq=False)
class _Dequantized:
    """dequantize(stored), not emitted yet."""

    stored: relax.Expr
    quantum: Quantum


@dataclass(frozen=True, eq=False)
class _Moved:
    """A movement of floats that is quantised next, not emitted yet."""

    movement: Movement


@dataclass(frozen=True, eq=False)
class _Steps:
    """quantize(real) of the old function, of integers within ``low`` and ``high`` alone."""

    real: relax.Expr
    quantum: Quantum
    low: int
    high: int


class _Sinker(Rewriter):
    def __init__(self, module: tvm.IRModule, bindings: Mapping[relax.Var, relax.Expr]) -> None:
        super().__init__()
        self.module, self.bindings = module, bindings
        self.readers = _readers(module["main"])
        self.steps: dict[relax.Var, _Steps] = {}  # by the old variable
        self.emitted: dict[tuple, relax.Expr] = {}  # one quantize and dequantize of a kind a tensor
        self.handlers |= {QUANTIZE: self._quantize, DEQUANTIZE: self._dequantize}
        self.handlers |= dict.fromkeys(_CLIPS, self._clip)
        self.handlers |= dict.fromkeys(_INTEGER_CLIPS, self._integer_clip)
        self.handlers |= dict.fromkeys(MOVEMENTS, self._move)

    def to_plain(self, value: _Dequantized | _Moved) -> relax.Expr:
        if isinstance(value, _Moved):
            call = value.movement.call
            args = [self.plain(a) for a in call.args]
            return self.builder.emit(relax.Call(call.op, args, call.attrs, call.ty_args))
        return self._once(emit_dequantize, value.stored, value.quantum)

    def _once(self, emit: Callable, x: relax.Expr, quantum: Quantum) -> relax.Expr:
        axis = None if quantum.per_tensor else quantum.axis
        values = quantum.scale.tobytes(), quantum.zero_point.tobytes()
        key = (emit, x, *values, quantum.dtype, axis)
        if key not in self.emitted:
            self.emitted[key] = emit(self.builder, x, quantum)
        return self.emitted[key]

    def _definition(self, old: relax.Expr) -> relax.Expr | None:
        """What binds an old variable, through other names for it."""
        found = self.bindings.get(old) if isinstance(old, relax.Var) else None
        while isinstance(found, relax.Var):
            found = self.bindings.get(found)
        return found

    def _dequantize(self, call: relax.Call) -> _Dequantized | None:
        quantum = quantum_of(call, DEQUANTIZE)
        if quantum is None or str(call.ty.dtype) != "float32":
            return None
        return _Dequantized(self.plain(call.args[0]), quantum)

    def _quantize(self, call: relax.Call) -> relax.Expr | None:
        quantum = quantum_of(call, QUANTIZE)
        if quantum is None or str(call.args[0].ty.dtype) != "float32":
            return None
        if quantum.per_tensor:
            self.steps[self.bound] = _Steps(call.args[0], quantum, *quantum.limits)
        return self._quantized(call.args[0], quantum)

    def _quantized(self, old: relax.Expr, quantum: Quantum) -> relax.Expr:
        """The integers of an expression of the old function."""
        old = self._without_clips(old, quantum, *quantum.limits)
        value = self.value(old)
        if isinstance(value, _Dequantized) and value.quantum.same_as(quantum):
            return value.stored
        if isinstance(value, _Moved) and quantum.per_tensor:
            parts = [self._quantized(part, quantum) for part in value.movement.data]
            moved = value.movement.emit(self.builder, parts, quantum)
            assert moved is not None  # of one quantum for the whole tensor
            return moved[0]
        x = self.plain(old)
        known = constant_of(x)
        if known is not None:
            return relax.const(quantum.quantize(known))
        return self._once(emit_quantize, x, quantum)

    def _without_clips(self, old: relax.Expr, quantum: Quantum, low: int, high: int) -> relax.Expr:
        """What is before the clips that a limit of the integers to low..high does as well."""
        while True:
            call = self._definition(old)
            if call is None or _name(call) not in _CLIPS:
                return old
            shape = quantum.along(len(shape_of(call)))[0].shape
            ends = [quantum.quantize(np.full(shape, b, "float32")) for b in _bounds(call)]
            if (ends[0] > low).any() or (ends[1] < high).any():
                return old
            old = call.args[0]

    def _clip(self, call: relax.Call) -> _Dequantized | None:
        """A clip of integers; one of floats where its bounds lie between two of them."""
        value = self.value(call.args[0])
        if not isinstance(value, _Dequantized) or not value.quantum.per_tensor:
            return None
        stored, quantum = value.stored, value.quantum
        low, high = (np.asarray(bound, "float32") for bound in _bounds(call))
        least, greatest = quantum.dequantize(np.asarray(quantum.limits, quantum.dtype))
        for bound, idle, limit in (
            (low, low <= least, relax.op.maximum),
            (high, high >= greatest, relax.op.minimum),
        ):
            if idle:
                continue
            step = quantum.quantize(bound)
            if quantum.dequantize(step) != bound:
                return None
            stored = self.builder.emit(limit(stored, relax.const(step)))
        return _Dequantized(stored, quantum)

    def _integer_clip(self, call: relax.Call) -> relax.Expr | None:
        """quantize(x) of fewer bits, limited by a clip of integers: clips x instead."""
        source, bound = call.args[0], constant_of(self.plain(call.args[1]))
        while isinstance(self.bindings.get(source), relax.Var):
            source = self.bindings[source]
        steps = self.steps.get(source) if isinstance(source, relax.Var) else None
        if steps is None or bound is None or bound.size != 1:
            return None
        low, high, number = steps.low, steps.high, int(bound.reshape(-1)[0])
        if call.op.name == "relax.maximum":
            low, high = max(low, number), max(high, number)
        else:
            low, high = min(low, number), min(high, number)
        quantum = steps.quantum
        self.steps[self.bound] = _Steps(steps.real, quantum, low, high)
        if (low, high) == quantum.limits:
            return self._quantized(steps.real, quantum)
        ends = quantum.dequantize(np.asarray([low, high], quantum.dtype))
        x = self.plain(self._without_clips(steps.real, quantum, low, high))
        clipped = self.builder.emit(relax.op.clip(x, float(ends[0]), float(ends[1])))
        return emit_quantize(self.builder, clipped, quantum)

    def _move(self, call: relax.Call) -> _Dequantized | _Moved | None:
        movement = movement_of(call, self.module)
        if movement is None or str(movement.data[0].ty.dtype) != "float32":
            return None
        values = [self.value(part) for part in movement.data]
        first = values[0]
        if isinstance(first, _Dequantized) and all(
            isinstance(v, _Dequantized) and v.quantum.same_as(first.quantum) for v in values
        ):
            stored = [v.stored for v in values]
            if movement.keeps(first.quantum):
                moved = movement.emit(self.builder, stored, first.quantum)
                if moved is not None:
                    return _Dequantized(*moved)
        return _Moved(movement) if self._is_quantized(self.bound, movement) else None

    def _is_quantized(self, old: relax.Var, movement: Movement) -> bool:
        """Whether nobody but a quantize reads what is moved, maybe behind other movements."""
        readers = self.readers.get(old, [])
        if movement.shrinks or len(readers) != 1:
            return False
        variable, value = readers[0]
        if isinstance(value, relax.Var):
            return self._is_quantized(variable, movement)
        if _name(value) == QUANTIZE:
            quantum = quantum_of(value, QUANTIZE)
            return quantum is not None and quantum.per_tensor
        following = movement_of(value, self.module)
        return following is not None and self._is_quantized(variable, following)


Readers = dict[relax.Var, list[tuple[relax.Var | None, relax.Expr]]]


def _readers(main: relax.Function) -> Readers:
    """For each variable the bindings that read it; the function's result has none."""
    readers: Readers = {}

    def note(expr: relax.Expr, variable: relax.Var | None, value: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            readers.setdefault(expr, []).append((variable, value))
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                note(field, variable, value)
        elif isinstance(expr, relax.Call):
            for argument in expr.args:
                note(argument, variable, value)
        elif isinstance(expr, relax.TupleGetItem):
            note(expr.tuple_value, variable, value)

    for block in main.body.blocks:
        for binding in block.bindings:
            note(binding.value, binding.var, binding.value)
    note(main.body.body, None, relax.Tuple([]))
    return readers
