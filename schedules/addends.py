"""Start sums from what is added to them anyway, instead of from zero.

    before:  acc = 0                       after:  acc = bias
             acc += x * w                          acc += x * w
             y = relu(acc + bias)                  y = relu(acc)

Saves one instruction for each vector of a result; the addend may also be a sum in memory that a
pass over part of a reduction continues.
"""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad


def start_from_addends(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Rewrite every accumulator of a scheduled function whose reduction was decomposed."""
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    changed: dict[s_tir.SBlock, s_tir.SBlock] = {}
    for start in blocks:
        accumulator = _zeroed(start)
        readers = [b for b in blocks if b is not start and accumulator is not None]
        readers = [b for b in readers if b.name_hint != "root" and _reads(b, accumulator)]
        finals = [b for b in readers if not _writes(b, accumulator)]
        if len(readers) >= 2 and len(finals) == 1 and finals[0] not in changed:
            changed |= _moved(start, finals[0], accumulator)

    def visit(block: s_tir.SBlock, mutator: tvm_ffi.StructuralMutator) -> s_tir.SBlock:
        new = next((n for old, n in changed.items() if block.same_as(old)), None)
        return mutator.default_mutate(block) if new is None else new

    if not changed:
        return func
    return func.with_body(tvm_ffi.structural_mutate(func.body, [(s_tir.SBlock, visit)]))


def _zeroed(block: s_tir.SBlock) -> tirx.Var | None:
    """The buffer that a block sets to zero and does nothing else."""
    store = block.body
    if not isinstance(store, tirx.BufferStore) or block.init is not None:
        return None
    constant = isinstance(store.value, (tirx.FloatImm, tirx.IntImm))
    return store.buffer if constant and float(store.value.value) == 0.0 else None


def _reads(block: s_tir.SBlock, buffer: tirx.Var) -> bool:
    return any(region.source.same_as(buffer) for region in block.reads)


def _writes(block: s_tir.SBlock, buffer: tirx.Var) -> bool:
    return any(region.source.same_as(buffer) for region in block.writes)


def _moved(
    start: s_tir.SBlock, final: s_tir.SBlock, accumulator: tirx.Var
) -> dict[s_tir.SBlock, s_tir.SBlock]:
    """Both blocks with the addend moved from the last to the first; nothing where there is none."""
    store = final.body
    if not isinstance(store, tirx.BufferStore):
        return {}
    loads: list[TensorLoad] = []
    tvm_ffi.structural_walk(store.value, [(TensorLoad, loads.append)])
    sums: list[tirx.Add] = []
    tvm_ffi.structural_walk(store.value, [(tirx.Add, sums.append)])
    pairs = [_addend(total, accumulator) for total in sums]
    found = [addend for addend in pairs if addend is not None]
    uses = [load for load in loads if load.source.same_as(accumulator)]
    if not found or len(found) != len(uses):
        return {}
    if any(not tvm_ffi.structural_equal(found[0], other) for other in found):
        return {}
    addend = _at_start(found[0], uses[0], start)
    if addend is None:
        return {}

    def keep(total: tirx.Add, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if _addend(total, accumulator) is None:
            return mutator.default_mutate(total)
        return total.a if _is_load(total.a, accumulator) else total.b

    value = tvm_ffi.structural_mutate(store.value, [(tirx.Add, keep)])
    first = start.body
    return {
        start: _with_body(start, tirx.BufferStore(first.buffer, addend, first.indices)),
        final: _with_body(final, tirx.BufferStore(store.buffer, value, store.indices)),
    }


def _addend(total: tirx.Add, accumulator: tirx.Var) -> TensorLoad | None:
    """The other operand of a sum, where one is the accumulator and the other a load."""
    for one, other in ((total.a, total.b), (total.b, total.a)):
        if _is_load(one, accumulator) and isinstance(other, TensorLoad):
            return None if other.source.same_as(accumulator) else other
    return None


def _is_load(expr: tirx.PrimExpr, buffer: tirx.Var) -> bool:
    return isinstance(expr, TensorLoad) and expr.source.same_as(buffer)


def _at_start(addend: TensorLoad, use: TensorLoad, start: s_tir.SBlock) -> TensorLoad | None:
    """The addend at the coordinates of the block that sets the accumulator."""
    mapped: dict[tirx.Var, tirx.PrimExpr] = {}
    for index, position in zip(use.indices, start.body.indices, strict=True):
        if isinstance(index, tirx.Var):
            mapped[index] = position
    used: list[tirx.Var] = []
    for index in addend.indices:
        tvm_ffi.structural_walk(index, [(tirx.Var, used.append)])
    if any(var not in mapped for var in used):
        return None
    indices = [
        tvm_ffi.structural_map(index, [(tirx.Var, lambda var: mapped.get(var, var))])
        for index in addend.indices
    ]
    return tirx.BufferLoad(addend.source, indices)


def _with_body(block: s_tir.SBlock, body: tirx.Stmt) -> s_tir.SBlock:
    """The block with another body, and with the regions that it now touches."""
    bare = s_tir.SBlock(block.iter_vars, [], [], block.name_hint, body)
    reads, writes, *_ = s_tir.analysis.get_sblock_access_region(bare, {})
    return s_tir.SBlock(
        block.iter_vars,
        reads,
        writes,
        block.name_hint,
        body,
        None,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
