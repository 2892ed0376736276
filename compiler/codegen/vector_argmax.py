"""Positions of the largest or smallest element (argmax, argmin) with vector accumulators.

before:  for k in range(N, annotations={"edgecc.reduce": 8}):
             i1 = select(v[0] > a[k] or v[0] == a[k] and i[0] < k, i[0], k)
             v1 = select(v[0] > a[k], v[0], a[k])
             i[0] = i1;  v[0] = v1
after:   for l in vectorized(8): index[l] = i[0]; value[l] = v[0]
         for o: for l in vectorized(8): the same with k = o * 8 + l, in lane l
         for l in range(8): the same with (index[l], value[l]) for (k, a[k])
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from compiler.codegen.loop_segments import substituted
from compiler.codegen.vector_reductions import inline, is_target, uses, vector


@dataclass(frozen=True)
class ArgReduction:
    """``(i, v)`` becomes (index, value) except where ``keep_index`` / ``keep_value`` hold."""

    loop: tirx.For
    index_store: tirx.BufferStore
    value_store: tirx.BufferStore
    keep_index: tirx.PrimExpr
    keep_value: tirx.PrimExpr
    index: tirx.PrimExpr
    value: tirx.PrimExpr


def match(loop: tirx.For) -> ArgReduction | None:
    """The loop as a search for a position; None if it is anything else."""
    if not isinstance(loop.body, tirx.SeqStmt):
        return None
    bound: dict[tirx.Var, tirx.PrimExpr] = {}
    stores = []
    for statement in loop.body.seq:
        if isinstance(statement, tirx.Bind):
            bound[statement.var] = inline(statement.value, bound)
        elif isinstance(statement, tirx.BufferStore):
            stores.append((statement, inline(statement.value, bound)))
        else:
            return None
    if len(stores) != 2 or not all(_chooses(store, value) for store, value in stores):
        return None
    (index_store, index), (value_store, value) = stores
    found = ArgReduction(
        loop,
        index_store,
        value_store,
        index.condition,
        value.condition,
        index.false_value,
        value.false_value,
    )
    # Everything that moves with the loop must be one of the two candidates.
    lane_free = [_with_candidates(found, c, _zero(index), _zero(value)) for c in _conditions(found)]
    fixed = [i for store, _ in stores for i in store.indices]
    if any(uses(e, loop.loop_var) for e in (*lane_free, *fixed)):
        return None
    # The index is stored before the value is decided, so the value must not depend on it.
    loads: list[TensorLoad] = []
    tvm_ffi.structural_walk(found.keep_value, [(TensorLoad, loads.append)])
    return None if any(load.source.same_as(index_store.buffer) for load in loads) else found


def _chooses(store: tirx.BufferStore, value: tirx.PrimExpr) -> bool:
    return isinstance(value, tirx.Select) and is_target(value.true_value, store)


def _conditions(found: ArgReduction) -> tuple[tirx.PrimExpr, tirx.PrimExpr]:
    return found.keep_index, found.keep_value


def _zero(value: tirx.PrimExpr) -> tirx.PrimExpr:
    return tirx.const(0, str(value.ty.dtype))


def rewrite(found: ArgReduction, lanes: int) -> tirx.Stmt:
    """The search with one candidate a lane."""
    loop = found.loop
    start, extent = int(loop.min), int(loop.extent)
    width = min(lanes, extent)
    accumulators = tuple(
        tirx.decl_buffer((width,), str(value.ty.dtype), name=name, scope="local")
        for name, value in (("index", found.index), ("value", found.value))
    )
    targets = (found.index_store, found.value_store)
    current = [tirx.BufferLoad(t.buffer, t.indices) for t in targets]

    def begin(lane: tirx.PrimExpr) -> tirx.Stmt:
        pairs = zip(accumulators, current, strict=True)
        return tirx.SeqStmt([tirx.BufferStore(a, c, [lane]) for a, c in pairs])

    outer = tirx.Var("ko", loop.loop_var.ty)
    count, rest = extent // width, extent % width
    dtype = str(loop.loop_var.ty.dtype)

    def step(base: tirx.PrimExpr, lane: tirx.PrimExpr) -> tirx.Stmt:
        return _advance(found, accumulators, lane, base + lane)

    main = vector(width, lambda lane: step(outer * width + start, lane), dtype)
    zero = tirx.IntImm(dtype, 0)
    statements = [
        *(tirx.AllocBuffer(a) for a in accumulators),
        vector(width, begin),
        tirx.For(outer, zero, tirx.IntImm(dtype, count), tirx.ForKind.SERIAL, main),
    ]
    if rest:
        base = tirx.IntImm(dtype, start + count * width)
        statements.append(vector(rest, lambda lane: step(base, lane), dtype))
    lane = tirx.Var("lane", "int32")
    statements.append(
        tirx.For(
            lane,
            tirx.IntImm("int32", 0),
            tirx.IntImm("int32", width),
            tirx.ForKind.SERIAL,
            _combine(found, accumulators, lane),
        )
    )
    return tirx.SeqStmt(statements)


def _advance(
    found: ArgReduction,
    accumulators: tuple[tirx.Var, ...],
    lane: tirx.PrimExpr,
    position: tirx.PrimExpr,
) -> tirx.Stmt:
    """One lane takes the loop's element at position."""
    loads = [tirx.BufferLoad(a, [lane]) for a in accumulators]
    index, value = (
        substituted(e, found.loop.loop_var, position) for e in (found.index, found.value)
    )
    keep_index, keep_value = (
        _with_accumulators(found, substituted(c, found.loop.loop_var, position), loads)
        for c in _conditions(found)
    )
    return _store_both(accumulators, [lane], keep_index, keep_value, loads, (index, value))


def _combine(found: ArgReduction, accumulators: tuple[tirx.Var, ...], lane: tirx.Var) -> tirx.Stmt:
    """The result takes the candidate of a lane."""
    candidates = [tirx.BufferLoad(a, [lane]) for a in accumulators]
    targets = (found.index_store, found.value_store)
    current = [tirx.BufferLoad(t.buffer, t.indices) for t in targets]
    keep_index, keep_value = (_with_candidates(found, c, *candidates) for c in _conditions(found))
    index = tirx.Select(keep_index, current[0], candidates[0])
    value = tirx.Select(keep_value, current[1], candidates[1])
    name = tirx.Var("position", index.ty)
    return tirx.SeqStmt(
        [
            tirx.Bind(name, index),
            tirx.BufferStore(targets[1].buffer, value, targets[1].indices),
            tirx.BufferStore(targets[0].buffer, name, targets[0].indices),
        ]
    )


def _store_both(
    buffers: tuple[tirx.Var, ...],
    indices: list[tirx.PrimExpr],
    keep_index: tirx.PrimExpr,
    keep_value: tirx.PrimExpr,
    current: list[tirx.PrimExpr],
    candidates: tuple[tirx.PrimExpr, ...],
) -> tirx.Stmt:
    index = tirx.Select(keep_index, current[0], candidates[0])
    value = tirx.Select(keep_value, current[1], candidates[1])
    # The index is decided by the old value, so it is stored first.
    return tirx.SeqStmt(
        [
            tirx.BufferStore(buffers[0], index, indices),
            tirx.BufferStore(buffers[1], value, indices),
        ]
    )


def _with_accumulators(
    found: ArgReduction, condition: tirx.PrimExpr, loads: list[tirx.PrimExpr]
) -> tirx.PrimExpr:
    targets = (found.index_store, found.value_store)
    for target, load in zip(targets, loads, strict=True):
        condition = _replaced(condition, tirx.BufferLoad(target.buffer, target.indices), load)
    return condition


def _with_candidates(
    found: ArgReduction,
    condition: tirx.PrimExpr,
    index: tirx.PrimExpr,
    value: tirx.PrimExpr,
) -> tirx.PrimExpr:
    # The value first: the index may be part of it.
    return _replaced(_replaced(condition, found.value, value), found.index, index)


def _replaced(expr: tirx.PrimExpr, old: tirx.PrimExpr, new: tirx.PrimExpr) -> tirx.PrimExpr:
    def visit(candidate: tirx.PrimExpr, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if tvm_ffi.structural_equal(candidate, old):
            return new
        return mutator.default_mutate(candidate)

    return tvm_ffi.structural_mutate(expr, [(type(old), visit)])
