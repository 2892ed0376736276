"""What a PrimFunc does, read off its blocks before scheduling: work and in-place legality."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from compiler.passes.packed_ops import PRODUCTS


def multiply_accumulates(func: tirx.PrimFunc) -> int:
    """Multiply-accumulates of one call: iterations of blocks that reduce products, or say so."""
    total = 0
    for block in _blocks(func):
        has_reduction = any(v.iter_type == tirx.IterVar.CommReduce for v in block.iter_vars)
        products = int(block.annotations.get(PRODUCTS, 0))
        if products:
            total += products * math.prod(int(v.dom.extent) for v in block.iter_vars)
        elif has_reduction and _contains_multiply(block.body):
            total += math.prod(int(v.dom.extent) for v in block.iter_vars)
    return total


def executed_dtype(func: tirx.PrimFunc) -> str:
    """What it computes in: of products what they are summed up from, else what is written.

    Sums of products in int32 are of 8-bit integers, "int8", or of activations that come as "int16";
    those in float32 may be of bfloat16.
    """
    blocks = _blocks(func)
    for block in blocks:
        has_reduction = any(v.iter_type == tirx.IterVar.CommReduce for v in block.iter_vars)
        if has_reduction and block.writes and _contains_multiply(block.body):
            dtype = str(block.writes[0].source.ty.dtype)
            if any(str(r.source.ty.dtype) == "bfloat16" for r in block.reads):
                return "bfloat16"
            return _multiplied(block, blocks) if dtype == "int32" else dtype
    return str(func.params[-1].ty.dtype) if func.params else ""


def _multiplied(block: s_tir.SBlock, blocks: list[s_tir.SBlock]) -> str:
    """What the first operand of integer products is before it is widened or padded."""
    dtype = ""
    found: s_tir.SBlock | None = block
    while found is not None and found.reads:
        source = found.reads[0].source
        dtype = str(source.ty.dtype)
        found = next((b for b in blocks if any(w.source.same_as(source) for w in b.writes)), None)
    return "int16" if dtype == "int16" else "int8"


def in_place_inputs(func: tirx.PrimFunc) -> list[int]:
    """Indices of the parameters whose memory the last parameter (the output) may take over.

    Legal when the block that writes the output has no reduction and reads the input only at the
    position it writes, and no other block touches that input.
    """
    if not func.params:
        return []
    blocks = _blocks(func)
    *inputs, output = func.params
    writers = [b for b in blocks if any(w.source.same_as(output) for w in b.writes)]
    if len(writers) != 1 or not _writes_each_point_once(writers[0]):
        return []
    writer = writers[0]
    stored = _indices(writer, output, tirx.BufferStore)
    if len(stored) != 1:
        return []
    legal = []
    for position, buffer in enumerate(inputs):
        if not _same_storage(buffer, output):
            continue
        elsewhere = any(
            r.source.same_as(buffer) for b in blocks if not b.same_as(writer) for r in b.reads
        )
        loads = _indices(writer, buffer, tvm.ir.TensorLoad)
        same_point = all(tvm_ffi.structural_equal(load, stored[0]) for load in loads)
        if loads and same_point and not elsewhere:
            legal.append(position)
    return legal


def _blocks(func: tirx.PrimFunc) -> list[s_tir.SBlock]:
    found: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, found.append))
    return [b for b in found if b.name_hint != "root"]


def _contains_multiply(stmt: tirx.Stmt) -> bool:
    found: list[bool] = []

    def visit(product: tirx.Mul) -> None:
        loads: list[tvm.ir.TensorLoad] = []
        tvm_ffi.structural_walk(product, (tvm.ir.TensorLoad, loads.append))
        # Index arithmetic multiplies as well, but loads nothing.
        found.append(bool(loads))

    def in_store(store: tirx.BufferStore) -> None:
        tvm_ffi.structural_walk(store.value, (tirx.Mul, visit))

    tvm_ffi.structural_walk(stmt, (tirx.BufferStore, in_store))
    return any(found)


def _writes_each_point_once(block: s_tir.SBlock) -> bool:
    return all(v.iter_type == tirx.IterVar.DataPar for v in block.iter_vars)


def _same_storage(a: tirx.Buffer, b: tirx.Buffer) -> bool:
    return str(a.ty.dtype) == str(b.ty.dtype) and [int(d) for d in a.ty.shape] == [
        int(d) for d in b.ty.shape
    ]


def _indices(block: s_tir.SBlock, buffer: tirx.Buffer, kind: type) -> list[tvm_ffi.Array]:
    found: list[tvm_ffi.Array] = []

    def visit(node: tvm.ir.TensorLoad | tirx.BufferStore) -> None:
        accessed = node.buffer if isinstance(node, tirx.BufferStore) else node.source
        if accessed.same_as(buffer):
            found.append(node.indices)

    tvm_ffi.structural_walk(block.body, (kind, visit))
    return found
