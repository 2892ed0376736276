"""Reductions into one element as vector accumulators.

    before:  for k in range(133, annotations={"edgecc.reduce": 32}): B[0] = B[0] + A[k]
    after:   for l in vectorized(32): acc[l] = 0
             for o in range(4):
                 for l in vectorized(32): acc[l] = acc[l] + A[o * 32 + l]
             for l in vectorized(5): acc[l] = acc[l] + A[128 + l]
             for l in vectorized(16): acc[l] = acc[l] + acc[l + 16]     and so on, halving
             B[0] = B[0] + acc[0]

Sums are added in another order than written: results differ in rounding (they are usually closer).
The accumulator is four or so hardware registers, so that the additions do not wait for each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from compiler.codegen.loop_segments import positions_of_change, simplified, substituted


@dataclass(frozen=True)
class Term:
    """``buffer[indices] = combine(buffer[indices], value)``."""

    store: tirx.BufferStore
    combine: type[tirx.PrimExpr]
    value: tirx.PrimExpr


@dataclass(frozen=True)
class Reduction:
    """A loop over independent terms."""

    loop: tirx.For
    terms: tuple[Term, ...]


def match(loop: tirx.For) -> Reduction | None:
    """The loop as independent sums, products, minima or maxima; None if it is anything else."""
    statements = list(loop.body.seq) if isinstance(loop.body, tirx.SeqStmt) else [loop.body]
    bound: dict[tirx.Var, tirx.PrimExpr] = {}
    terms = []
    for statement in statements:
        if isinstance(statement, tirx.Bind):
            bound[statement.var] = inline(statement.value, bound)
        elif isinstance(statement, tirx.BufferStore):
            terms.append(_term(statement, inline(statement.value, bound), loop.loop_var))
        else:
            return None
    found = tuple(term for term in terms if term is not None)
    if not found or len(found) != len(terms) or not _independent(found):
        return None
    return Reduction(loop, found)


def inline(value: tirx.PrimExpr, bound: dict[tirx.Var, tirx.PrimExpr]) -> tirx.PrimExpr:
    """The value with bound names replaced by their definitions."""
    for var, definition in bound.items():
        value = substituted(value, var, definition)
    return value


def _term(store: tirx.BufferStore, value: tirx.PrimExpr, var: tirx.Var) -> Term | None:
    if any(uses(index, var) for index in store.indices):
        return None
    for combine in (tirx.Add, tirx.Mul, tirx.Max, tirx.Min):
        if not isinstance(value, combine):
            continue
        if is_target(value.a, store):
            return Term(store, combine, value.b)
        if is_target(value.b, store):
            return Term(store, combine, value.a)
    return None


def is_target(value: tirx.PrimExpr, store: tirx.BufferStore) -> bool:
    """Whether a value is the element that the store overwrites."""
    return (
        isinstance(value, TensorLoad)
        and value.source.same_as(store.buffer)
        and tvm_ffi.structural_equal(list(value.indices), list(store.indices))
    )


def _independent(terms: tuple[Term, ...]) -> bool:
    """Whether no term reads what a term writes."""
    written = [term.store.buffer for term in terms]
    reads: list[TensorLoad] = []
    for term in terms:
        tvm_ffi.structural_walk(term.value, [(TensorLoad, reads.append)])
    return not any(load.source.same_as(w) for load in reads for w in written)


def uses(value: tirx.PrimExpr, var: tirx.Var) -> bool:
    """Whether a variable occurs in an expression."""
    found: list[tirx.Var] = []
    tvm_ffi.structural_walk(value, [(tirx.Var, found.append)])
    return any(v.same_as(var) for v in found)


def rewrite(reduction: Reduction, width: int, lanes: int) -> tirx.Stmt:
    """The reduction with accumulators of ``width`` elements, ``lanes`` in a register."""
    loop = reduction.loop
    start, extent = int(loop.min), int(loop.extent)
    while width > lanes and width > extent:
        width //= 2
    width = min(width, extent)
    cuts = positions_of_change(loop.body, loop.loop_var, start, start + extent)
    accumulators = [_accumulator(term, width, i) for i, term in enumerate(reduction.terms)]
    statements: list[tirx.Stmt] = [tirx.AllocBuffer(a) for a in accumulators]
    for term, accumulator in zip(reduction.terms, accumulators, strict=True):
        statements.append(vector(width, _initialise(term, accumulator)))
    bounds = [start, *cuts, start + extent]
    for low, high in itertools.pairwise(bounds):
        count = (high - low) // width
        if count:
            statements.append(_step(reduction, accumulators, low, count, width))
        if (high - low) % width:
            rest = (high - low) % width
            statements.append(_step(reduction, accumulators, high - rest, 1, rest))
    for term, accumulator in zip(reduction.terms, accumulators, strict=True):
        statements += _fold(term, accumulator, width)
    return tirx.SeqStmt(statements)


def _accumulator(term: Term, width: int, index: int) -> tirx.Var:
    dtype = str(term.value.ty.dtype)
    return tirx.decl_buffer((width,), dtype, name=f"acc{index}", scope="local")


def _initialise(term: Term, accumulator: tirx.Var) -> Callable[[tirx.PrimExpr], tirx.Stmt]:
    dtype = str(term.value.ty.dtype)
    if term.combine is tirx.Add:
        value = tirx.const(0, dtype)
    elif term.combine is tirx.Mul:
        value = tirx.const(1, dtype)
    else:
        # Taking the extremum with the start value more than once does no harm.
        value = tirx.BufferLoad(term.store.buffer, term.store.indices)
    return lambda lane: tirx.BufferStore(accumulator, value, [lane])


def _step(
    reduction: Reduction, accumulators: list[tirx.Var], low: int, count: int, width: int
) -> tirx.Stmt:
    loop = reduction.loop
    outer = tirx.Var("ko", loop.loop_var.ty)

    def body(lane: tirx.PrimExpr) -> tirx.Stmt:
        position = lane + low if count == 1 else outer * width + lane + low
        stores = []
        for term, accumulator in zip(reduction.terms, accumulators, strict=True):
            value = substituted(term.value, loop.loop_var, position)
            total = term.combine(tirx.BufferLoad(accumulator, [lane]), value)
            stores.append(tirx.BufferStore(accumulator, total, [lane]))
        statement = stores[0] if len(stores) == 1 else tirx.SeqStmt(stores)
        ranges = {outer: count}
        if isinstance(lane, tirx.Var):
            ranges[lane] = width
        return simplified(statement, ranges)

    dtype = str(loop.loop_var.ty.dtype)
    vectors = vector(width, body, dtype)
    if count == 1:
        return vectors
    return tirx.For(
        outer, tirx.IntImm(dtype, 0), tirx.IntImm(dtype, count), tirx.ForKind.SERIAL, vectors
    )


def _fold(term: Term, accumulator: tirx.Var, width: int) -> list[tirx.Stmt]:
    """Combine the accumulator's lanes by halves, then into the target element."""
    statements: list[tirx.Stmt] = []
    while width > 1:
        half = (width + 1) // 2

        def body(lane: tirx.PrimExpr, half: int = half) -> tirx.Stmt:
            low = tirx.BufferLoad(accumulator, [lane])
            high = tirx.BufferLoad(accumulator, [lane + half])
            return tirx.BufferStore(accumulator, term.combine(low, high), [lane])

        statements.append(vector(width - half, body))
        width = half
    store = term.store
    target = tirx.BufferLoad(store.buffer, store.indices)
    total = term.combine(target, tirx.BufferLoad(accumulator, [tirx.IntImm("int32", 0)]))
    return [*statements, tirx.BufferStore(store.buffer, total, store.indices)]


def vector(
    width: int, body: Callable[[tirx.PrimExpr], tirx.Stmt], dtype: str = "int32"
) -> tirx.Stmt:
    """``body`` over the lanes; ``dtype`` is that of the loop variable they stand for."""
    if width == 1:
        return body(tirx.IntImm(dtype, 0))
    lane = tirx.Var("lane", dtype)
    zero, extent = tirx.IntImm(dtype, 0), tirx.IntImm(dtype, width)
    return tirx.For(lane, zero, extent, tirx.ForKind.VECTORIZED, body(lane))
