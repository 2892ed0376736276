"""Matrix products."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import Node


@converter("MatMul")
def matmul(node: Node) -> relax.Expr:
    return product(node.weight(0), node.weight(1), node.dtype(0))


def product(left: relax.Expr, right: relax.Expr, dtype: str) -> relax.Expr:
    """The matrix product; float16 is summed up in float32."""
    if dtype != "float16":
        return relax.op.matmul(left, right)
    return relax.op.astype(relax.op.matmul(left, right, out_dtype="float32"), dtype)


@converter("Gemm")
def gemm(node: Node) -> relax.Expr:
    dtype = node.dtype(0)
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    left = node.weight(0, [1, 0] if node.attr("transA", 0) else None)
    right = node.weight(1, [1, 0] if node.attr("transB", 0) else None)
    result = product(left, right, dtype)
    if alpha != 1.0:
        result = _scaled(node, result, alpha, dtype)
    if node.has(2) and beta != 0.0:
        bias = node[2]
        if beta != 1.0:
            if node.is_const(2):
                scaled = node.inputs[2] * np.asarray(beta, node.inputs[2].dtype)
                bias = node.make_constant(scaled.astype(node.inputs[2].dtype))
            else:
                bias = _scaled(node, bias, beta, dtype)
        result = relax.op.add(result, bias)
    return result


def _scaled(node: Node, x: relax.Expr, factor: float, dtype: str) -> relax.Expr:
    if dtype.startswith("float"):
        return relax.op.multiply(x, node.scalar(factor, dtype))
    wide = relax.op.multiply(relax.op.astype(x, "float64"), node.scalar(factor, "float64"))
    return relax.op.astype(wide, dtype)
