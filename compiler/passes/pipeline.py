"""All phases from an imported model to fused loop nests, flat and in order."""

from __future__ import annotations

import tvm
from tvm import relax

from compiler.passes.aliases import ALIAS_OPS, VIEW_OPS
from compiler.passes.byte_tables import use_byte_tables
from compiler.passes.fold_batch_norm import fold_batch_norm
from compiler.passes.fold_constants import fold_constants
from compiler.passes.fold_pads import fold_pads
from compiler.passes.fuse_depthwise import fuse_depthwise
from compiler.passes.legalize_quantized import LEGALIZATIONS
from compiler.passes.pack_convolutions import pack_convolutions
from compiler.passes.pack_matmuls import pack_matmuls
from compiler.passes.packed_ops import join_elementwise
from compiler.passes.place_views import place_views
from compiler.passes.sink_dequantize import sink_dequantize
from compiler.passes.store_as_operands import store_as_operands
from compiler.target import Target


def optimize(module: tvm.IRModule, target: Target, exact: bool = False) -> tvm.IRModule:
    """Simplify, legalise and fuse; the result's ``main`` is call_tir, reshapes and views
    alone.

    Args:
        exact: no algorithm that rounds differently from a sum of products (Winograd's).
    """
    return lower(simplify(module, target), target, exact)


def simplify(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Fold what is constant; the result is what quantisation looks at."""
    steps = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
    ]
    with tvm.target.Target(target.tvm()):
        module = tvm.ir.transform.Sequential(steps)(module)
        module = fold_constants(module)
        module = fold_batch_norm(module)
        return fold_pads(module)


def lower(module: tvm.IRModule, target: Target, exact: bool = False) -> tvm.IRModule:
    """Choose layouts, legalise and fuse a simplified module."""
    fuse = [
        relax.transform.DeadCodeElimination(),
        relax.transform.LegalizeOps(LEGALIZATIONS, skip_ops=[*ALIAS_OPS, *VIEW_OPS]),
        relax.transform.AnnotateTIROpPattern(),
        join_elementwise(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    with tvm.target.Target(target.tvm()):
        sunk = sink_dequantize(module)
        module = module if sunk is module else fold_constants(sunk)
        module = store_as_operands(module, target)
        module = use_byte_tables(module)
        module = pack_convolutions(module, target, exact)
        module = pack_matmuls(module, target)
        module = place_views(module)
        module = tvm.ir.transform.Sequential(fuse)(module)
        return fuse_depthwise(module, target)
