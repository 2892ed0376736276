"""One function for a depthwise convolution and the 1x1 convolution that alone reads it.

Before:  y = depthwise(x, w, bias);  z = reshape(y, one long row);  r = pointwise(z, v, bias2)
After:   r = depthwise_pointwise(x, w, bias, v, bias2)

The schedule (``schedules/depthwise_pointwise.py``) then computes some rows of y, which never leave
the cache, and all that the 1x1 convolution makes of them, before it goes on to the next rows.
"""

from __future__ import annotations

import math
from collections import Counter

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.ir.expr import TensorLoad

from compiler.passes.aliases import ALIAS_OPS
from compiler.passes.packed_ops import ANCHOR, GROUPS
from compiler.passes.rewriter import Rewriter
from compiler.passes.row_blocks import Pair, choose_rows
from compiler.target import Target

# Attribute of a merged function: rows of the depthwise result that are computed at a time.
BLOCK_ROWS = "edgecc.block_rows"
# Depthwise windows beyond this size read a padded copy.
MAX_TAPS = 25


def fuse_depthwise(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Merge the pairs that gain by it on the target; run after fusion to PrimFuncs."""
    fuser = _Fuser(module, target)
    fused = fuser.rewrite(module)
    if not fuser.merged:
        return module
    cleanup = [relax.transform.DeadCodeElimination(), relax.transform.CanonicalizeBindings()]
    return tvm.ir.transform.Sequential(cleanup)(fused)


class _Fuser(Rewriter):
    def __init__(self, module: tvm.IRModule, target: Target) -> None:
        super().__init__()
        self.module = module
        self.target = target
        self.handlers = {"relax.call_tir": self._call}
        self.definitions: dict[relax.Var, relax.Expr] = {}
        self.readers: Counter[relax.Var] = Counter()
        self.merged: dict[tuple[str, str], tvm.ir.GlobalVar] = {}
        for block in module["main"].body.blocks:
            for binding in block.bindings:
                self.definitions[binding.var] = binding.value
                self._count(binding.value)
        self._count(module["main"].body.body)

    def _count(self, expr: relax.Expr) -> None:
        for var in relax.analysis.free_vars(expr):
            self.readers[var] += 1

    def to_plain(self, value: relax.Expr) -> relax.Expr:
        return value

    def _call(self, call: relax.Call) -> relax.Expr | None:
        """The merged call, where this is the second one of a pair."""
        first = self._only_source(call.args[1].fields[0])
        if first is None:
            return None
        names = (first.args[0].name_hint, call.args[0].name_hint)
        if names not in self.merged:
            depthwise, pointwise = (self.module[name] for name in names)
            pair = _pair(depthwise, pointwise)
            rows = None if pair is None else choose_rows(self.target, pair)
            if rows is None:
                return None
            merged = merge(depthwise, pointwise).with_attr(BLOCK_ROWS, rows)
            name = "_".join(n.removeprefix("fused_") for n in names)
            self.merged[names] = self.builder.add_func(merged, f"fused_{name}")
        arguments = [*first.args[1].fields, *list(call.args[1].fields)[1:]]
        arguments = [self.plain(a) for a in arguments]
        return self.builder.emit(
            relax.call_tir(self.merged[names], relax.Tuple(arguments), call.ty_args[0])
        )

    def _only_source(self, expr: relax.Expr) -> relax.Call | None:
        """The call_tir behind reshapes that nothing else reads."""
        while isinstance(expr, relax.Var) and self.readers[expr] == 1:
            value = self.definitions.get(expr)
            if not isinstance(value, relax.Call):
                return None
            name = getattr(value.op, "name", "")
            if name == "relax.call_tir":
                return value
            if name not in ALIAS_OPS:
                return None
            expr = value.args[0]
        return None


def _pair(depthwise: tirx.PrimFunc, pointwise: tirx.PrimFunc) -> Pair | None:
    """What the cost model must know; None where the functions are not what the template takes."""
    first, second = _blocks(depthwise), _blocks(pointwise)
    kinds = [[b.annotations.get(ANCHOR) for b in blocks] for blocks in (first, second)]
    if "depthwise" not in kinds[0] or kinds[1][0] != "conv2d":
        return None
    position = kinds[0].index("depthwise")
    if any(block.name_hint != "pad" for block in first[:position]):
        return None
    picture, result, row = (
        [int(d) for d in buffer.ty.shape]
        for buffer in (depthwise.params[0], depthwise.params[-1], pointwise.params[0])
    )
    if result[0] != 1 or row != [1, result[1], 1, result[2] * result[3], result[4]]:
        return None
    if int(second[0].annotations.get(GROUPS, 1)) > 1:
        return None
    others = [r.source for b in second[1:] for r in b.reads]
    taps = [int(v.dom.extent) for v in first[position].iter_vars[5:]]
    out_blocks, _, pixels, lanes, _, *kernel = (int(v.dom.extent) for v in second[0].iter_vars[1:8])
    if any(source.same_as(pointwise.params[0]) for source in others):
        return None
    if kernel != [1, 1] or pixels != row[3] or math.prod(taps) > MAX_TAPS:
        return None
    channels, out_channels = result[1] * result[4], out_blocks * lanes
    bits = tvm.DataType(str(depthwise.params[-1].ty.dtype)).bits
    size = (picture[2], result[2], result[3])
    return Pair(*size, channels, out_channels, taps[0], taps[1], bits)


def _blocks(func: tirx.PrimFunc) -> list[s_tir.SBlock]:
    """Blocks in execution order, without the root."""
    found: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, found.append)])
    return [b for b in found if b.name_hint != "root"]


def merge(depthwise: tirx.PrimFunc, pointwise: tirx.PrimFunc) -> tirx.PrimFunc:
    """Both functions one after the other, with the first one's result as a local tensor.

    Args:
        depthwise: its last parameter is the result, [1, Cb, H, W, c].
        pointwise: its first parameter is the same memory as [1, Cb, 1, H * W, c].
    """
    result, row = depthwise.params[-1], pointwise.params[0]
    width = int(result.ty.shape[3])

    def moved(n, block, _, pixel, lane) -> list[tirx.PrimExpr]:
        return [n, block, tirx.floordiv(pixel, width), tirx.floormod(pixel, width), lane]

    def load(access: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        indices = [mutator.mutate(index) for index in access.indices]
        if not access.source.same_as(row):
            return tirx.BufferLoad(access.source, indices)
        return tirx.BufferLoad(result, moved(*indices))

    def region(read: tirx.BufferRegion) -> tirx.BufferRegion:
        if not read.source.same_as(row):
            return read
        points = moved(*(dim.min for dim in read.region))
        return tirx.BufferRegion(result, [tvm.ir.Range.from_min_extent(p, 1) for p in points])

    def block(node: s_tir.SBlock, mutator: tvm_ffi.StructuralMutator) -> s_tir.SBlock:
        if not any(read.source.same_as(row) for read in node.reads):
            return mutator.default_mutate(node)
        return s_tir.SBlock(
            node.iter_vars,
            [region(read) for read in node.reads],
            node.writes,
            node.name_hint,
            tvm_ffi.structural_mutate(node.body, [(TensorLoad, load)]),
            node.init,
            node.alloc_buffers,
            node.match_buffers,
            node.annotations,
        )

    first, second = depthwise.body.block, pointwise.body.block
    body = tirx.SeqStmt(
        [first.body, tvm_ffi.structural_mutate(second.body, [(s_tir.SBlock, block)])]
    )
    buffers = [*first.alloc_buffers, result, *second.alloc_buffers]
    root = s_tir.SBlock([], [], [], "root", body, None, buffers)
    params = [*list(depthwise.params)[:-1], *list(pointwise.params)[1:]]
    realize = s_tir.SBlockRealize([], tirx.const(True, "bool"), root)
    return tirx.PrimFunc(params, realize, pointwise.ret_type, pointwise.attrs)
