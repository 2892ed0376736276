"""Walks a checked ONNX graph and builds the Relax function.

One abstract interpretation does it all: a value is either a NumPy array, known now, or a Relax
expression of static shape, known at run time. Nodes of known inputs are evaluated; branches of
known conditions are taken; loops of known length are unrolled; functions are inlined. What is
left goes through the converters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax

from compiler.errors import EdgeccError
from compiler.frontend import converters, functions, limits
from compiler.frontend.fold import Folder, FoldError
from compiler.frontend.integers import IntegerConstants, fold
from compiler.frontend.load import describe, reads
from compiler.frontend.node import (
    ConversionError,
    NeedsConstantError,
    Node,
    OperandNotConstantError,
    constant,
    dtype_of,
    np_dtype,
    shape_of,
)
from compiler.frontend.tensors import to_numpy


class _Unsupported:
    """Stands for results of unknown operators, so that all of them can be listed at once."""


UNSUPPORTED = _Unsupported()
# Behind the node's name in that of the variable which ``main`` returns.
OUTPUT_SUFFIX = "__output"


@dataclass(frozen=True)
class Value:
    """A value of the graph and the graph inputs that it is computed from."""

    data: Any  # np.ndarray | relax.Expr | list of these (a sequence) | UNSUPPORTED | None
    origin: frozenset[str] = frozenset()


Scope = dict[str, Value]


class GraphImporter:
    """Translates one model; ``run`` translates a list of nodes within a scope of named values."""

    def __init__(self, path: Path, model: onnx.ModelProto, builder: relax.BlockBuilder) -> None:
        self.path = path
        self.builder = builder
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.opsets = {
            ("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import
        } or {"": 1}
        self.folder = Folder()
        self.integers = IntegerConstants()
        self.unsupported: list[str] = []
        self._nodes = 0
        self._depth = 0
        self._constants: dict[int, tuple[np.ndarray, relax.Expr]] = {}

    def constant(self, array: np.ndarray) -> relax.Expr:
        """The Relax constant of ``array``; the same one when asked again."""
        if id(array) not in self._constants:
            if str(array.dtype) in ("object", "str") or array.dtype.kind in "USOc":
                raise ConversionError(f"element type {array.dtype} is not supported")
            self._constants[id(array)] = (array, constant(array))
        return self._constants[id(array)][1]

    def as_expr(self, data: Any) -> relax.Expr:
        return self.constant(data) if isinstance(data, np.ndarray) else data

    def run(self, nodes: Sequence[onnx.NodeProto], scope: Scope, opsets: Mapping[str, int]) -> None:
        """Adds the results of ``nodes`` to ``scope``."""
        self._depth += 1
        if self._depth > limits.MAX_DEPTH:
            raise EdgeccError(
                f"{self.path}: functions or subgraphs are nested deeper than {limits.MAX_DEPTH}",
                "flatten the model",
            )
        for node in nodes:
            self._nodes += 1
            if self._nodes > limits.MAX_NODES:
                raise EdgeccError(
                    f"{self.path}: more than {limits.MAX_NODES} nodes after unrolling loops "
                    "and inlining functions",
                    "shorten the sequence (--shape) or simplify the model",
                )
            self._run_node(node, scope, opsets)
        self._depth -= 1

    def _run_node(self, node: onnx.NodeProto, scope: Scope, opsets: Mapping[str, int]) -> None:
        try:
            values = [scope[name] if name else Value(None) for name in node.input]
        except KeyError as error:
            raise self._error(node, f"reads {error}, which nothing makes") from None
        # what subgraphs capture counts as well
        origin = frozenset().union(*(scope[n].origin for n in reads(node) if n in scope))
        if any(value.data is UNSUPPORTED for value in values):
            # Its own operator is still checked, to name all unsupported ones in one message.
            if not converters.is_known(node, opsets) and not self._function(node, opsets):
                self._note_unsupported(node)
            results: Sequence[Any] = [UNSUPPORTED] * len(node.output)
        else:
            try:
                results = self._convert(node, values, scope, opsets)
            except (EdgeccError, RecursionError, MemoryError):
                raise
            except OperandNotConstantError as error:
                raise self._needs_constant(node, error, values) from None
            except ConversionError as error:
                raise self._error(node, error.message, error.hint) from None
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise self._error(node, reason[-1][:300]) from error
        if len(results) < len(node.output):
            raise self._error(node, f"output {len(results)} is not supported")
        for name, result in zip(node.output, results, strict=False):
            if name:
                result = self._settle(node, result)
                known = not isinstance(result, relax.Expr)
                scope[name] = Value(result, frozenset() if known else origin)

    def _settle(self, node: onnx.NodeProto, result: Any) -> Any:
        """Binds an expression to a variable and refuses dynamic or absurd shapes."""
        if isinstance(result, list):
            return [self._settle(node, item) for item in result]
        if not isinstance(result, relax.Expr):
            return result
        if isinstance(result, tvm.ir.GenericConst):
            return result.value.numpy()
        try:
            if not isinstance(result, relax.Var):
                result = self.builder.emit(result, name_hint=binding_name(node))
            shape, dtype = shape_of(result), dtype_of(result)
        except ConversionError as error:
            raise self._error(node, error.message, error.hint) from None
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise self._error(node, reason[-1][:300]) from error
        nbytes = np.prod(shape, dtype=object) * np_dtype(dtype).itemsize
        if nbytes > limits.MAX_TENSOR_BYTES:
            raise self._error(
                node,
                f"makes a tensor of shape {'x'.join(map(str, shape))}, which takes "
                f"{nbytes} bytes (limit 2 GiB)",
                "bind a smaller input shape with --shape",
            )
        if nbytes == 0:
            return np.zeros(shape, np_dtype(dtype))  # no elements: known already
        return result

    def _convert(
        self, node: onnx.NodeProto, values: list[Value], scope: Scope, opsets: Mapping[str, int]
    ) -> Sequence[Any]:
        control = functions.CONTROL_FLOW.get((node.domain, node.op_type))
        if control:
            return control(self, node, scope, opsets)
        data = [value.data for value in values]
        local = self.functions.get((node.domain, node.op_type))
        if local is not None:
            return functions.inline(self, node, local, values)
        if all(item is None or isinstance(item, np.ndarray) for item in data):
            try:
                return self._fold(node, data, opsets)
            except FoldError:
                pass
        converter = converters.find(node.domain, node.op_type)
        if converter:
            result = converter(self._node(node, data, opsets))
            return result if isinstance(result, (list, tuple)) else [result]
        stock = converters.find_stock(node.domain, node.op_type)
        if stock:
            return stock(self._node(node, data, opsets))
        body = functions.schema_function(node, data, opsets)
        if body is not None:
            return functions.inline(self, node, body, values)
        self._note_unsupported(node)
        return [UNSUPPORTED] * len(node.output)

    def _fold(
        self, node: onnx.NodeProto, data: list[Any], opsets: Mapping[str, int]
    ) -> Sequence[Any]:
        viewed = self._node(node, data, opsets)
        folded = fold(viewed)
        if folded is not None:
            self.folder.count(folded.nbytes)
            return [folded]
        named = {n: d for n, d in zip(node.input, data, strict=True) if n}
        return self.integers.follow(viewed, self.folder.fold(node, named, opsets))

    def _function(self, node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
        return (node.domain, node.op_type) in self.functions or functions.has_schema_function(
            node, opsets
        )

    def _node(self, node: onnx.NodeProto, data: list[Any], opsets: Mapping[str, int]) -> Node:
        return Node(
            op=node.op_type,
            domain=node.domain,
            name=binding_name(node),
            opset=opsets.get(node.domain, 1),
            inputs=data,
            attrs={a.name: _attribute(a) for a in node.attribute},
            outputs=list(node.output),
            builder=self.builder,
            make_constant=self.constant,
            integers=self.integers,
        )

    def _note_unsupported(self, node: onnx.NodeProto) -> None:
        text = describe(node)
        if text not in self.unsupported:
            self.unsupported.append(text)

    def _error(self, node: onnx.NodeProto, message: str, hint: str = "") -> EdgeccError:
        return EdgeccError(
            f"{self.path}: {describe(node)}: {message}",
            hint or "export the model with this operator expressed by simpler ones",
        )

    def _needs_constant(
        self, node: onnx.NodeProto, error: OperandNotConstantError, values: list[Value]
    ) -> NeedsConstantError:
        inputs = tuple(sorted(values[error.index].origin))
        flags = " ".join(f"--const {name}=VALUE" for name in inputs)
        return NeedsConstantError(
            f"{self.path}: {describe(node)}: its input '{node.input[error.index]}' "
            f"({error.what}) must be known at compile time, but depends on "
            f"{', '.join(repr(name) for name in inputs) or 'run-time values'}",
            f"make it a constant: {flags}",
            inputs,
        )


def binding_name(node: onnx.NodeProto) -> str:
    """A Relax variable name that still tells the ONNX node."""
    raw = node.name or next((name for name in node.output if name), node.op_type)
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in raw).strip("_")[:80]
    return f"n{name}" if not name or name[0].isdigit() else name


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return to_numpy(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    return list(value) if attribute.type in _LISTS else value


_LISTS = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.TENSORS)


def node_name(var: relax.Var) -> str:
    """What ``binding_name`` made of the node that a variable comes from."""
    return var.name.removesuffix(OUTPUT_SUFFIX)


def raise_unsupported(path: Path, unsupported: list[str]) -> None:
    """One error that lists all unknown operators with their nodes."""
    if unsupported:
        shown = "; ".join(unsupported[:50])
        more = f" and {len(unsupported) - 50} more" if len(unsupported) > 50 else ""
        raise EdgeccError(
            f"{path}: operators that are not supported: {shown}{more}",
            "export the model with simpler operators, or a newer opset of the same model",
        )
