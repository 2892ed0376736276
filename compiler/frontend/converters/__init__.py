"""Converters by operator: our own first, TVM's importer for the rest.

A converter is a function of a ``Node`` that returns one result or a list of them; a result is a
Relax expression, or an array where it is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import onnx

from compiler.frontend.converters import stock
from compiler.frontend.converters.registry import REGISTRY
from compiler.frontend.node import Node

Converter = Callable[[Node], Any]

# One module a family of operators; importing it registers its converters.
_FAMILIES = (
    "activation",
    "arithmetic",
    "conv",
    "index",
    "integer",
    "matmul",
    "norm",
    "pad",
    "pool",
    "qlinear",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "scan",
    "scatter",
    "sequence",
    "shape",
    "sort",
    "weight_groups",
)
for _family in _FAMILIES:
    import_module(f"{__name__}.{_family}")


def find(domain: str, op: str) -> Converter | None:
    """Our converter for the operator."""
    return REGISTRY.get((domain, op))


def find_stock(domain: str, op: str) -> Callable[[Node], list[Any]] | None:
    """TVM's converter for the operator, adapted."""
    return stock.find(domain, op)


def is_known(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Whether a converter exists, or the operator is control flow."""
    from compiler.frontend.functions import CONTROL_FLOW

    key = (node.domain, node.op_type)
    return key in REGISTRY or key in CONTROL_FLOW or stock.find(*key) is not None


__all__ = ["REGISTRY", "Converter", "find", "find_stock", "is_known"]
