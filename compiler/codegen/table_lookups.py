"""Vector loads from any places of a table of 256 bytes, by the target's instructions for them.

The code generator loads the lanes of such a vector one by one.

    before:  for o in range(n):
                 B[ramp(o * 16, 1, 16)] = table[int32x16(uint8x16(A[ramp(o * 16, 1, 16)]))]
    after:   t0, ..., t15 = table[ramp(0, 1, 16)], ..., table[ramp(240, 1, 16)]
             for o in range(n):
                 B[ramp(o * 16, 1, 16)] = tbx(...tbl(t0, ..., t3, A[ramp(o * 16, 1, 16)])...)

The table is loaded once a task, whatever that stores: LLVM would load it again after each store
where results may take over the memory of inputs.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from compiler.passes.approximations.expansion import Expansion
from compiler.passes.byte_tables import ENTRIES
from compiler.target import Target
from schedules.intrinsics.byte_table import ByteTable, Vectors, byte_table, vector_lanes


def use_table_instructions(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Rewrite lookups in parameters of a function; run after loops are vectorised."""
    instructions = byte_table(target)
    declared, body = _split(func.body)
    known = [k for k in (*func.params, *(d.buffer for d in declared)) if _is_table(k)]
    if instructions is None or not known:
        return func
    rewritten = _Lookups(instructions, known).rewrite(body)
    return func.with_body(tirx.SeqStmt([*declared, rewritten]) if declared else rewritten)


class _Lookups:
    """Of tables among the buffers ``known`` in the whole function."""

    def __init__(self, instructions: ByteTable, known: list[tirx.Var]) -> None:
        self.instructions, self.known = instructions, known
        self.loaded: dict[tirx.Var, Vectors] = {}
        self.code = Expansion(instructions.lanes)  # that loads them

    def rewrite(self, body: tirx.Stmt) -> tirx.Stmt:
        """A body with its tables loaded in front of it."""
        outer = self.loaded, self.code
        self.loaded, self.code = {}, Expansion(self.instructions.lanes)
        callbacks = [(tirx.For, self._loop), (TensorLoad, self._load)]
        body = tvm_ffi.structural_mutate(body, callbacks)
        loads = self.code.statements()
        self.loaded, self.code = outer
        return tirx.SeqStmt([*loads, body]) if loads else body

    def _loop(self, loop: tirx.For, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        if loop.kind != tirx.ForKind.PARALLEL:
            return mutator.default_mutate(loop)
        # Tasks hand nothing but pointers to each other.
        body, kind = self.rewrite(loop.body), loop.kind
        return tirx.For(
            loop.loop_var, loop.min, loop.extent, kind, body, None, dict(loop.annotations)
        )

    def _load(self, load: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        load = mutator.default_mutate(load)
        x = _positions(load)
        if x is None or not any(load.source.same_as(k) for k in self.known):
            return load
        if load.source not in self.loaded:
            self.loaded[load.source] = self.instructions.load(load.source, self.code)
        return tirx.reinterpret(str(load.ty.dtype), self._looked_up(self.loaded[load.source], x))

    def _looked_up(self, table: Vectors, x: tirx.PrimExpr) -> tirx.PrimExpr:
        """In parts of as many lanes as the instructions take; the last one is filled up."""
        lanes, most, least = vector_lanes(x), self.instructions.lanes, self.instructions.least
        code = Expansion(lanes)
        x, found = code.let(x), []
        for start in range(0, lanes, most):
            width = min(most, max(least, 1 << (lanes - start - 1).bit_length()))
            part = code.let(_elements([x], start, width)) if width != lanes else x
            part_code = Expansion(width)
            y = self.instructions.look_up(table, part, part_code)
            found.append(code.let(part_code.finish(y)))
        return code.finish(_elements(found, 0, lanes))


def _split(body: tirx.Stmt) -> tuple[list[tirx.DeclBuffer], tirx.Stmt]:
    """The declarations in front of a body, and the rest of it."""
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    count = next(
        (i for i, s in enumerate(statements) if not isinstance(s, tirx.DeclBuffer)), len(statements)
    )
    rest = statements[count:]
    if not rest:  # a function that does nothing
        return [], body
    return statements[:count], rest[0] if len(rest) == 1 else tirx.SeqStmt(rest)


def _is_table(buffer: tirx.Var) -> bool:
    whole = [int(d) for d in buffer.ty.shape] == [ENTRIES]
    return whole and tvm.DataType(str(buffer.ty.dtype)).bits == 8


def _positions(load: TensorLoad) -> tirx.PrimExpr | None:
    """Vectors of bytes that a table is read at."""
    if not _is_table(load.source):
        return None
    (index,) = load.indices
    x = index.value if isinstance(index, tirx.Cast) else None
    return x if x is not None and str(x.ty.dtype).startswith("uint8x") else None


def _elements(vectors: Vectors, start: int, count: int) -> tirx.PrimExpr:
    """``count`` lanes of vectors side by side, from one on; what lies behind the last is any."""
    lanes = sum(vector_lanes(v) for v in vectors)
    if (start, count) == (0, lanes) and len(vectors) == 1:
        return vectors[0]
    copies = -(-count // lanes)
    positions = [tirx.IntImm("int32", min(start + i, lanes - 1)) for i in range(count)]
    return tirx.Shuffle(vectors * copies, positions)
