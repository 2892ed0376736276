"""Binary and variadic arithmetic, comparison and logic, with ONNX broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import TypeGuard

import numpy as np
from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, dtype_of, np_dtype

_BINARY = {
    "Add": relax.op.add,
    "Sub": relax.op.subtract,
    "Mul": relax.op.multiply,
    "Div": relax.op.divide,
    "And": relax.op.logical_and,
    "Or": relax.op.logical_or,
    "Xor": relax.op.logical_xor,
    "Equal": relax.op.equal,
    "Less": relax.op.less,
    "LessOrEqual": relax.op.less_equal,
    "Greater": relax.op.greater,
    "GreaterOrEqual": relax.op.greater_equal,
    "BitwiseAnd": relax.op.bitwise_and,
    "BitwiseOr": relax.op.bitwise_or,
    "BitwiseXor": relax.op.bitwise_xor,
}


def operands(node: Node) -> tuple[relax.Expr, relax.Expr]:
    """Both operands; the ``broadcast``/``axis`` attributes of opsets below 7 are applied."""
    left, right = node[0], node[1]
    if node.opset < 7 and node.attr("broadcast", 0):
        rank, dims = node.rank(0), node.shape(1)
        axis = node.attr("axis", rank - len(dims))
        axis = axis + rank if axis < 0 else axis
        trailing = rank - axis - len(dims)
        if trailing:
            right = relax.op.reshape(right, (*dims, *[1] * trailing))
    return left, right


@converter(*_BINARY)
def binary(node: Node) -> relax.Expr:
    return _BINARY[node.op](*operands(node))


@converter("BitShift")
def bit_shift(node: Node) -> relax.Expr:
    """Shifts by the type's width or more (or by negative amounts) push all bits out."""
    dtype = node.dtype(0)
    bits = np.dtype(dtype).itemsize * 8
    left = node.attr("direction") == "LEFT"
    shift = relax.op.left_shift if left else relax.op.right_shift
    if node.is_const(1) and ((node.inputs[1] >= 0) & (node.inputs[1] < bits)).all():
        return shift(node[0], node[1])
    amount = node[1]
    outside = relax.op.greater(amount, node.scalar(bits - 1, dtype))
    if not dtype.startswith("uint"):
        negative = relax.op.less(amount, node.scalar(0, dtype))
        outside = relax.op.logical_or(outside, negative)
    outside = node.emit(outside)
    result = shift(node[0], relax.op.where(outside, node.scalar(bits - 1, dtype), amount))
    return relax.op.where(outside, node.scalar(0, dtype), result) if left else result


@converter("Mod")
def mod(node: Node) -> relax.Expr:
    if node.attr("fmod", 0):
        return relax.op.mod(node[0], node[1])
    return relax.op.floor_mod(node[0], node[1])


@converter("Pow")
def power(node: Node) -> relax.Expr:
    """Small constant exponents become products; integer bases are computed in float64."""
    base, dtype = node[0], node.dtype(0)
    if node.is_const(1) and node.inputs[1].size == 1 and node.rank(1) <= node.rank(0):
        exponent = float(node.inputs[1].reshape(-1)[0])
        if exponent in (1.0, 2.0, 3.0):
            return reduce(relax.op.multiply, [base] * int(exponent))
        if exponent == 0.5 and dtype.startswith("float"):
            return relax.op.sqrt(base)
    _, exponents = operands(node)
    work = dtype if dtype.startswith("float") else "float64"
    result = relax.op.power(cast(base, work), cast(exponents, work))
    if work == dtype:
        return result
    return cast(relax.op.round(result), dtype)


@converter("Sum", "Max", "Min", "Mean")
def variadic(node: Node) -> relax.Expr:
    fold = {"Max": relax.op.maximum, "Min": relax.op.minimum}.get(node.op, relax.op.add)
    total = reduce(fold, node.exprs())
    if node.op == "Mean":
        total = relax.op.divide(total, node.scalar(len(node.inputs), node.dtype(0)))
    return total


@converter("Where")
def where(node: Node) -> relax.Expr:
    return relax.op.where(node[0], node[1], node[2])


@converter("Clip")
def clip(node: Node) -> relax.Expr:
    x, dtype = node[0], node.dtype(0)
    if node.opset < 11:
        bounds = [node.attr("min"), node.attr("max")]
        low, high = (None if b is None else np.asarray(b, np_dtype(dtype)) for b in bounds)
    else:
        low, high = (node.inputs[i] if node.has(i) else None for i in (1, 2))
    if _fixed(low) and _fixed(high) and dtype.startswith("float") and low.size and high.size:
        return relax.op.clip(x, float(low.reshape(-1)[0]), float(high.reshape(-1)[0]))
    for bound, limit in ((low, relax.op.maximum), (high, relax.op.minimum)):
        if bound is not None:
            limited = node.make_constant(bound) if isinstance(bound, np.ndarray) else bound
            x = limit(x, limited)
    return x


def _fixed(bound: object) -> TypeGuard[np.ndarray]:
    return isinstance(bound, np.ndarray) and bound.size == 1 and bool(np.isfinite(bound).all())


def cast(x: relax.Expr, dtype: str) -> relax.Expr:
    """``x`` in another element type; no operator where it has it already."""
    current = dtype_of(x) if x.ty is not None and isinstance(x.ty, relax.TensorType) else None
    return x if current == dtype else relax.op.astype(x, dtype)


@converter("Cast")
def cast_node(node: Node) -> relax.Expr:
    from onnx.helper import tensor_dtype_to_np_dtype

    to = node.attr("to")
    if isinstance(to, str):  # opset 1
        dtype = to.lower().replace("float", "float32") if to in ("FLOAT",) else to.lower()
    else:
        dtype = str(tensor_dtype_to_np_dtype(to))
    return _cast(node, dtype)


@converter("CastLike")
def cast_like(node: Node) -> relax.Expr:
    return _cast(node, node.dtype(1))


def _cast(node: Node, dtype: str) -> relax.Expr:
    source = node.dtype(0)
    if dtype in ("object", "<U0", "str"):
        raise ConversionError("strings are not supported")
    if dtype == source:
        return node[0]
    if node.is_const(0):  # CastLike wants no more than the type of its run-time input
        return node.make_constant(node.inputs[0].astype(np_dtype(dtype)))
    if dtype == "bool":
        return relax.op.not_equal(node[0], node.scalar(0, source))
    return relax.op.astype(node[0], dtype)


@converter("BitCast")
def bit_cast(node: Node) -> relax.Expr:
    from onnx.helper import tensor_dtype_to_np_dtype

    dtype = str(tensor_dtype_to_np_dtype(node.attr("to")))
    if "bool" in (dtype, node.dtype(0)):
        return _cast(node, dtype)  # one byte of 0 or 1 either way

    def reinterpret(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.reinterpret(dtype, x(*i)), name="bit_cast")

    return node.te(reinterpret, node[0], name="bit_cast")
