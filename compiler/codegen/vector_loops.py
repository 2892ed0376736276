"""Strip-mine the loops that schedules ask to vectorise, after blocks are lowered.

Schedules leave loops whole and annotate them; the extent is seldom a multiple of the vector width,
and a guard inside a vector loop would make it scalar. Here a loop becomes a main loop of full
vectors, then one narrower vector for what is left:

    before:  for i in range(1003, annotations={"edgecc.vectorize": 16}): B[i] = A[i] + 1
    after:   for o in range(62):
                 for i in vectorized(16): B[o * 16 + i] = A[o * 16 + i] + 1
             for i in vectorized(8): B[992 + i] = ...
             for i in vectorized(3): B[1000 + i] = ...

Where the body asks for the position in the loop (padding, concatenation), the loop is first cut
at the positions where an answer changes, so that no vector sees a condition.
"""

from __future__ import annotations

import itertools
import math

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from compiler.codegen import vector_argmax, vector_reductions
from compiler.codegen.loop_segments import positions_of_change, simplified, substituted
from compiler.codegen.row_branches import branch_at_changes

# Elements in one step of the loop: lanes times the vectors that are in flight together.
VECTORIZE = "edgecc.vectorize"
# The same for a reduction into one element; becomes vector accumulators.
REDUCE = "edgecc.reduce"
# With VECTORIZE: how many tasks the loop's full vectors are divided into.
TASKS = "edgecc.tasks"
# Only cut the loop where conditions change, into serial stretches.
CUT = "edgecc.cut"
# Of a loop over one block's part of so many positions: a test in front of each iteration.
BRANCH = "edgecc.branch"
# With VECTORIZE or REDUCE: elements of one hardware vector.
LANES = "edgecc.lanes"


def vectorize_annotated_loops(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite every annotated loop; run between FlattenBuffer and VectorizeLoop."""

    def visit(loop: tirx.For, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        loop = mutator.default_mutate(loop)
        annotations = {key: int(value) for key, value in loop.annotations.items() if key in _KEYS}
        if not annotations:
            return loop
        plain = {k: v for k, v in loop.annotations.items() if k not in _KEYS}
        loop = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, None, plain)
        if not isinstance(loop.extent, tirx.IntImm) or not isinstance(loop.min, tirx.IntImm):
            return loop
        if REDUCE in annotations:
            lanes = annotations.get(LANES, annotations[REDUCE])
            reduction = vector_reductions.match(loop)
            if reduction is not None:
                return vector_reductions.rewrite(reduction, annotations[REDUCE], lanes)
            search = vector_argmax.match(loop)
            if search is None:
                return loop
            # Wide searches pay a scalar pass over their lanes at the end.
            wide = annotations[REDUCE]
            long = int(loop.extent) >= 4 * wide
            return vector_argmax.rewrite(search, wide if long else lanes)
        if BRANCH in annotations:
            return branch_at_changes(loop, annotations[BRANCH])
        return strip_mine(loop, annotations) if VECTORIZE in annotations else _cut(loop)

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.For, visit)]))


_KEYS = (VECTORIZE, REDUCE, TASKS, CUT, BRANCH, LANES)


def strip_mine(loop: tirx.For, annotations: dict[str, int]) -> tirx.Stmt:
    """The loop as full vectors and rests, for each stretch with constant conditions."""
    start, extent = int(loop.min), int(loop.extent)
    cuts = positions_of_change(loop.body, loop.loop_var, start, start + extent)
    bounds = [start, *cuts, start + extent]
    width = annotations[VECTORIZE]
    lanes = annotations.get(LANES, width)
    tasks = annotations.get(TASKS, 1) if len(bounds) == 2 else 1
    statements: list[tirx.Stmt] = []
    for low, high in itertools.pairwise(bounds):
        statements += _stretch(loop, low, high, width, lanes, tasks)
    if not statements:
        return tirx.Evaluate(0)  # a loop over nothing
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def _cut(loop: tirx.For) -> tirx.Stmt:
    """The loop as serial loops with constant conditions each."""
    start, extent = int(loop.min), int(loop.extent)
    cuts = positions_of_change(loop.body, loop.loop_var, start, start + extent)
    bounds = [start, *cuts, start + extent]
    if not cuts:
        return loop
    return tirx.SeqStmt([_vectors(loop, a, b - a, 1) for a, b in itertools.pairwise(bounds)])


def _stretch(
    loop: tirx.For, low: int, high: int, width: int, lanes: int, tasks: int
) -> list[tirx.Stmt]:
    statements: list[tirx.Stmt] = []
    if tasks > 1 and (high - low) // width >= tasks:
        chunk = (high - low) // width // tasks
        statements.append(_parallel_vectors(loop, low, tasks, chunk, width))
        low += tasks * chunk * width
    if high - low >= width:
        count = (high - low) // width
        statements.append(_vectors(loop, low, count, width))
        low += count * width
    if lanes < width and high - low > lanes:
        full = (high - low) // lanes * lanes
        statements.append(_vectors(loop, low, 1, full))
        low += full
    if high > low:
        statements.append(_vectors(loop, low, 1, high - low))
    return statements


def _vectors(loop: tirx.For, low: int, count: int, width: int) -> tirx.Stmt:
    """``count`` vectors of ``width`` elements from position ``low`` on."""
    outer, inner = _fresh(loop.loop_var, "o"), _fresh(loop.loop_var, "i")
    if width == 1:
        inner_value: tirx.PrimExpr = tirx.IntImm(str(loop.loop_var.ty.dtype), 0)
    else:
        inner_value = inner
    position = inner_value + low if count == 1 else outer * width + inner_value + low
    body = substituted(loop.body, loop.loop_var, position)
    ranges = {inner: width, outer: count}
    body = simplified(body, ranges)
    if width > 1:
        body = private_per_lane(body, inner, width)
        body = _loop(inner, width, tirx.ForKind.VECTORIZED, body)
    return body if count == 1 else _loop(outer, count, tirx.ForKind.SERIAL, body)


def _parallel_vectors(loop: tirx.For, low: int, tasks: int, chunk: int, width: int) -> tirx.Stmt:
    task, outer, inner = (_fresh(loop.loop_var, suffix) for suffix in ("t", "o", "i"))
    position = (task * chunk + outer) * width + inner + low
    body = substituted(loop.body, loop.loop_var, position)
    body = simplified(body, {task: tasks, outer: chunk, inner: width})
    body = private_per_lane(body, inner, width)
    body = _loop(inner, width, tirx.ForKind.VECTORIZED, body)
    body = _loop(outer, chunk, tirx.ForKind.SERIAL, body)
    return _loop(task, tasks, tirx.ForKind.PARALLEL, body)


def private_per_lane(body: tirx.Stmt, lane: tirx.Var, width: int) -> tirx.Stmt:
    """Give each lane its own copy of the buffers that the loop body allocates.

    Element i of lane l becomes element ``i * width + l``: the lanes of one element are one vector.
    """
    wide: dict[tirx.Var, tirx.Var] = {}

    def allocate(stmt: tirx.AllocBuffer) -> tirx.AllocBuffer:
        buffer = stmt.buffer
        size = math.prod(int(d) for d in buffer.ty.shape) * width
        scope = buffer.ty.scope if hasattr(buffer.ty, "scope") else "local"
        name, dtype = buffer.name, str(buffer.ty.dtype)
        if buffer not in wide:
            wide[buffer] = tirx.decl_buffer((size,), dtype, name=name, scope=scope or "global")
        return tirx.AllocBuffer(wide[buffer])

    body = tvm_ffi.structural_map(body, [(tirx.AllocBuffer, allocate)])
    if not wide:
        return body

    def load(access: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if access.source in wide:
            index = mutator.mutate(access.indices[0])
            return tirx.BufferLoad(wide[access.source], [index * width + lane])
        return mutator.default_mutate(access)

    def store(stmt: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        if stmt.buffer in wide:
            index = mutator.mutate(stmt.indices[0])
            value = mutator.mutate(stmt.value)
            return tirx.BufferStore(wide[stmt.buffer], value, [index * width + lane])
        return mutator.default_mutate(stmt)

    return tvm_ffi.structural_mutate(body, [(TensorLoad, load), (tirx.BufferStore, store)])


def _fresh(var: tirx.Var, suffix: str) -> tirx.Var:
    return tirx.Var(f"{var.name}_{suffix}", var.ty)


def _loop(var: tirx.Var, extent: int, kind: int, body: tirx.Stmt) -> tirx.For:
    dtype = str(var.ty.dtype)
    return tirx.For(var, tirx.IntImm(dtype, 0), tirx.IntImm(dtype, extent), kind, body)
