"""TVM's own ONNX converters behind our interface, for the operators that they get right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import relax

from compiler.frontend.node import ConversionError, Node

# Their results call packed functions of TVM's runtime, have dynamic shapes, or are wrong.
_REFUSED = frozenset(
    [
        "AffineGrid",
        "Constant",
        "If",
        "Loop",
        "Scan",
        "Optional",
        "OptionalHasElement",
        "OptionalGetElement",
        "Unique",
        "NonZero",
        "NonMaxSuppression",
        "AllClassNMS",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "ConcatFromSequence",
        "SplitToSequence",
        "SequenceAt",
    ]
)

_MICROSOFT = frozenset(
    ["Attention", "SkipLayerNormalization", "EmbedLayerNormalization", "MatMulInteger16"]
)


def find(domain: str, op: str) -> Callable[[Node], list[Any]] | None:
    from tvm.relax.frontend.onnx import onnx_frontend

    if op in _REFUSED or domain != ("com.microsoft" if op in _MICROSOFT else ""):
        return None
    cls = onnx_frontend._get_convert_map().get(op)
    return partial(_convert, cls) if cls else None


def _convert(cls: Any, node: Node) -> list[Any]:
    from tvm.relax.frontend.onnx.onnx_frontend import onnx_input

    inputs = onnx_input(node.exprs())
    attrs = {k: v.encode() if isinstance(v, str) else v for k, v in node.attrs.items()}
    attrs["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
    method = cls.get_converter(node.opset)
    result = method(node.builder, inputs, attrs, [{}, {}])
    if isinstance(result, (list, tuple)):
        return list(result)
    if not isinstance(result, relax.Expr):
        raise ConversionError("is not supported")
    result = node.builder.normalize(result)
    if isinstance(result.ty, relax.ShapeType):
        raise ConversionError("makes a shape where a tensor is due")
    if isinstance(result.ty, relax.TupleType):
        result = node.emit(result)
        return [node.emit(relax.TupleGetItem(result, i)) for i in range(len(result.ty.fields))]
    return [result]
