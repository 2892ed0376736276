"""How a block walks through memory: the stride of each of its loops in each tensor it touches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, sym, tirx
from tvm.ir.expr import TensorLoad

from schedules.blocks import Block, Loop, Schedule

# Arithmetic operations that one call of a mathematical function stands for.
CALL_COST = 12
_CHEAP_CALLS = ("if_then_else", "reinterpret", "likely", "fabs")
_OPERATIONS = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.Select, tirx.Cast),
    *(tirx.FloorDiv, tirx.FloorMod),
)


@dataclass(frozen=True)
class Axis:
    """A loop around a block.

    Args:
        loop: its handle in the schedule.
        var: its variable.
        extent: iterations.
        reduces: whether its iterations add to the same elements.
        loads: stride in elements of each load; None where the index is not linear in the loop.
        stores: the same of each store.
        tested: whether the block asks for the position itself (padding, comparisons, weights).
    """

    loop: Loop
    var: tirx.Var
    extent: int
    reduces: bool
    loads: tuple[int | None, ...]
    stores: tuple[int | None, ...]
    tested: bool

    def contiguous(self) -> bool:
        """Whether neighbouring iterations store neighbours and load neighbours or the same."""
        return all(s == 1 for s in self.stores) and all(s in (0, 1) for s in self.loads)


def realize_of(sch: Schedule, block: Block) -> tirx.Stmt:
    """The SBlockRealize of a block: its statement and what its iteration variables are bound to."""
    wanted = sch.get(block)
    found: list[tirx.Stmt] = []

    def visit(realize: tirx.Stmt) -> None:
        if realize.block.same_as(wanted):
            found.append(realize)

    tvm_ffi.structural_walk(sch.mod["main"].body, [(s_tir.SBlockRealize, visit)])
    return found[0]


def axes_of(sch: Schedule, block: Block) -> list[Axis]:
    """The loops around a block from the outside in, with their strides."""
    realize = realize_of(sch, block)
    statement = realize.block
    binding = {iv.var: v for iv, v in zip(statement.iter_vars, realize.iter_values, strict=True)}
    reducing = _variables(
        [
            value
            for iv, value in zip(statement.iter_vars, realize.iter_values, strict=True)
            if iv.iter_type == tirx.IterVar.CommReduce
        ]
    )
    analyzer = sym.Analyzer()
    for loop in sch.get_loops(block):
        stmt = sch.get(loop)
        analyzer.bind(stmt.loop_var, tvm.ir.Range.from_min_extent(stmt.min, stmt.extent))
    loads, stores, rest = _accesses(statement, binding, analyzer)
    axes = []
    for loop in sch.get_loops(block):
        stmt = sch.get(loop)
        axes.append(
            Axis(
                loop,
                stmt.loop_var,
                int(stmt.extent),
                any(v.same_as(stmt.loop_var) for v in reducing),
                tuple(_stride(offset, stmt.loop_var) for offset in loads),
                tuple(_stride(offset, stmt.loop_var) for offset in stores),
                any(v.same_as(stmt.loop_var) for v in rest),
            )
        )
    return axes


def _accesses(
    statement: s_tir.SBlock, binding: dict, analyzer: sym.Analyzer
) -> tuple[list[tirx.PrimExpr], list[tirx.PrimExpr], list[tirx.Var]]:
    """Flat offsets of loads and of stores, and the variables used outside of indices."""
    written = [r.source for r in statement.writes]
    loads: list[tirx.PrimExpr] = []
    stores: list[tirx.PrimExpr] = []

    def load(access: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        if not any(access.source.same_as(w) for w in written):
            loads.append(_offset(access.source, access.indices, binding, analyzer))
        for index in access.indices:
            mutator.mutate(index)  # loads inside indices count as well
        return tirx.const(0, str(access.ty.dtype))

    def store(stmt: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        stores.append(_offset(stmt.buffer, stmt.indices, binding, analyzer))
        return tirx.Evaluate(mutator.mutate(stmt.value))

    remaining = tvm_ffi.structural_mutate(
        statement.body, [(TensorLoad, load), (tirx.BufferStore, store)]
    )
    tested = [binding[v] for v in _variables([remaining]) if v in binding]
    return loads, stores, _variables(tested)


def _offset(
    buffer: tirx.Var, indices: list, binding: dict, analyzer: sym.Analyzer
) -> tirx.PrimExpr:
    offset: tirx.PrimExpr = tirx.IntImm("int64", 0)
    for index, size in zip(indices, buffer.ty.shape, strict=True):
        offset = offset * size + tirx.Cast(tvm.ir.PrimType("int64"), _bound(index, binding))
    return analyzer.simplify(offset)


def _bound(expr: tirx.PrimExpr, binding: dict) -> tirx.PrimExpr:
    def replace(var: tirx.Var) -> tirx.PrimExpr:
        return binding.get(var, var)

    return tvm_ffi.structural_map(expr, [(tirx.Var, replace)])


def _stride(offset: tirx.PrimExpr, var: tirx.Var) -> int | None:
    if not any(v.same_as(var) for v in _variables([offset])):
        return 0
    coefficients = sym.detect_linear_equation(offset, [var])
    if len(coefficients) != 2:
        return None
    slope = sym.Analyzer().simplify(coefficients[0])
    return int(slope) if isinstance(slope, tirx.IntImm) else None


def _variables(nodes: list) -> list[tirx.Var]:
    found: list[tirx.Var] = []
    for node in nodes:
        tvm_ffi.structural_walk(node, [(tirx.Var, found.append)])
    return found


def cost(sch: Schedule, block: Block) -> int:
    """Arithmetic operations of one execution of a block's body, roughly; at least 1."""
    counts = [1]

    def call(node: tvm.ir.Call) -> None:
        cheap = getattr(node.op, "name", "").rpartition(".")[2] in _CHEAP_CALLS
        counts.append(1 if cheap else CALL_COST)

    callbacks = [(kind, lambda node: counts.append(1)) for kind in _OPERATIONS]
    tvm_ffi.structural_walk(sch.get(block).body, [*callbacks, (tvm.ir.Call, call)])
    return sum(counts)


def calls(sch: Schedule, block: Block) -> set[str]:
    """Names of the functions a block calls, without their dialect."""
    names: set[str] = set()

    def call(node: tvm.ir.Call) -> None:
        names.add(getattr(node.op, "name", "").rpartition(".")[2])

    tvm_ffi.structural_walk(sch.get(block).body, [(tvm.ir.Call, call)])
    return names


def is_reduction(sch: Schedule, block: Block) -> bool:
    """Whether any axis of the block reduces."""
    return any(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(block).iter_vars)


def is_elementwise(sch: Schedule, block: Block) -> bool:
    """Whether a block makes each element of one tensor once, from its coordinates."""
    stmt = sch.get(block)
    parallel = all(iv.iter_type == tirx.IterVar.DataPar for iv in stmt.iter_vars)
    return parallel and isinstance(stmt.body, tirx.BufferStore)


def spatial_extents(sch: Schedule, block: Block) -> list[int]:
    """Extents of the axes that do not reduce."""
    return [
        int(iv.dom.extent)
        for iv in sch.get(block).iter_vars
        if iv.iter_type == tirx.IterVar.DataPar
    ]


def element_bits(sch: Schedule, block: Block) -> int:
    """Bits of the widest element that a block reads, stores or computes with (at most 64)."""
    bits = [8]

    def see(value: tirx.PrimExpr) -> None:
        dtype = tvm.DataType(str(value.ty.dtype))
        bits.append(dtype.bits)

    stmt = sch.get(block)
    bits += [tvm.DataType(str(r.source.ty.dtype)).bits for r in (*stmt.reads, *stmt.writes)]
    tvm_ffi.structural_walk(stmt.body, [(TensorLoad, see)])

    def cast(node: tirx.Cast) -> None:
        # Casts of indices do not meet the data.
        if str(node.ty.dtype).startswith(("float", "bfloat")):
            see(node)

    tvm_ffi.structural_walk(stmt.body, [(tirx.Cast, cast)])
    return min(64, max(bits))


def total_cost(sch: Schedule, block: Block) -> int:
    """Element operations of a whole block."""
    stmt = sch.get(block)
    return math.prod(int(iv.dom.extent) for iv in stmt.iter_vars) * cost(sch, block)
