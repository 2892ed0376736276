"""com.microsoft's MatMulNBits: floats times weights in groups of 4 or 8 bits."""

from __future__ import annotations

import math

from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node
from compiler.frontend.weight_groups import of_nbits
from compiler.quantize.groups import BITS, emit_groups


@converter("MatMulNBits", domain="com.microsoft")
def matmul_nbits(node: Node) -> relax.Expr:
    depth, columns = int(node.attr("K")), int(node.attr("N"))
    bits, block = int(node.attr("bits", 4)), int(node.attr("block_size"))
    if bits not in BITS:
        raise ConversionError(f"weights of {bits} bits are not supported")
    if node.has(4):
        raise ConversionError("g_idx (groups of scattered rows) is not supported")
    packed, scale = node.const(1, "weights"), node.const(2, "scales")
    zero = node.const(3, "zero points") if node.has(3) else None
    groups = -(-depth // block)
    if packed.size != columns * groups * math.ceil(block * bits / 8):
        raise ConversionError(f"the weights are not those of {depth} x {columns} values")
    weights = of_nbits(packed, scale, zero, (depth, columns), block, bits)
    if weights is None:
        raise ConversionError("zero points between two integers are not supported")
    dtype = node.dtype(0)
    x = node[0] if dtype == "float32" else node.emit(relax.op.astype(node[0], "float32"))
    result = relax.op.matmul(x, emit_groups(node.builder, weights, node.name))
    if node.has(5):
        bias = node[5] if dtype == "float32" else relax.op.astype(node[5], "float32")
        result = relax.op.add(node.emit(result), bias)
    return result if dtype == "float32" else relax.op.astype(node.emit(result), dtype)
