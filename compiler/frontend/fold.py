"""Evaluates ONNX nodes whose inputs are all constant, with bounds on what they may produce."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.frontend import limits

if TYPE_CHECKING:
    import onnx

# Costly (their reference implementations are loops in Python), random, or holding subgraphs.
NOT_FOLDED = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "DeformConv",
        "AveragePool",
        "MaxPool",
        "LpPool",
        "MaxUnpool",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "RoiAlign",
        "MaxRoiPool",
        "GridSample",
        "Resize",
        "Upsample",
        "Einsum",
        "DFT",
        "STFT",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "NonMaxSuppression",
        "Loop",
        "Scan",
        "If",
        "SequenceMap",
        "ImageDecoder",
        "MelWeightMatrix",
        "Col2Im",
    ]
)
_MAX_INFERENCE_DATA = 4096  # elements; larger constants do not steer output shapes
_MAX_FOLD_WORK = 1 << 28  # multiply-accumulates of a folded matrix product


class FoldError(Exception):
    """The node cannot be evaluated: unknown operator, wrong operands, or too large a result."""


class Folder:
    """Evaluates nodes with the onnx package's reference implementation (NumPy)."""

    def __init__(self) -> None:
        self._total = 0
        self._nodes = 0

    def fold(
        self, node: onnx.NodeProto, values: Mapping[str, Any], opsets: Mapping[str, int]
    ) -> list[Any]:
        """Outputs of ``node`` for constant inputs.

        Args:
            node: without subgraphs; its attributes hold no references.
            values: arrays by input name.
            opsets: operator set version by domain.

        Raises:
            FoldError: see there; the caller then converts the node instead.
        """
        if node.op_type in NOT_FOLDED:
            raise FoldError(f"{node.op_type} is not evaluated at compile time")
        self._nodes += 1
        if self._nodes > limits.MAX_FOLDED_NODES:
            raise FoldError("constant folding takes too many nodes")
        self._check_size(node, values, opsets)
        results = _evaluate(node, values, opsets)
        self.count(sum(r.nbytes for r in results if isinstance(r, np.ndarray)))
        return results

    def count(self, nbytes: int) -> None:
        """Adds to what folding took.

        Raises:
            FoldError: more than a model may take.
        """
        self._total += nbytes
        if self._total > limits.MAX_FOLDED_TOTAL:
            raise FoldError("constant folding takes too much memory")

    def _check_size(
        self, node: onnx.NodeProto, values: Mapping[str, Any], opsets: Mapping[str, int]
    ) -> None:
        first = next((v for v in values.values() if isinstance(v, np.ndarray)), np.zeros(1))
        depth = max(first.shape[-2:], default=1)
        if node.op_type in _SIZE_PRESERVING:
            return
        for nbytes, count in _predict(node, values, opsets):
            if nbytes > limits.MAX_FOLDED_BYTES:
                raise FoldError(f"the result would take {nbytes} bytes")
            if node.op_type in ("MatMul", "Gemm") and count * depth > _MAX_FOLD_WORK:
                raise FoldError("the product is too much work")


_SIZE_PRESERVING = frozenset(
    [
        "Shape",
        "Size",
        "Cast",
        "Identity",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Constant",
        "Neg",
        "Abs",
        "Flatten",
        "Floor",
        "Ceil",
        "Sqrt",
        "Exp",
        "Log",
        "Not",
        "Slice",
        "ReduceSum",
        "ReduceProd",
        "ReduceMax",
        "ReduceMin",
        "ReduceMean",
    ]
)


def _predict(
    node: onnx.NodeProto, values: Mapping[str, Any], opsets: Mapping[str, int]
) -> list[tuple[int, int]]:
    """Bytes and elements of each output, from ONNX shape inference.

    Raises:
        FoldError: the inference fails; where it only does not know, the inputs bound the result.
    """
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    types, data = {}, {}
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            continue
        try:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
        except (KeyError, ValueError):
            raise FoldError(f"no ONNX type for {value.dtype}") from None
        types[name] = helper.make_tensor_type_proto(element, value.shape)
        if value.size <= _MAX_INFERENCE_DATA:
            data[name] = numpy_helper.from_array(value, name)
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        outputs = shape_inference.infer_node_outputs(schema, node, types, data, None, imports)
    except Exception as error:
        raise FoldError(str(error).splitlines()[0][:200]) from None
    bound = max((v.nbytes for v in values.values() if isinstance(v, np.ndarray)), default=0)
    sizes = []
    for name in node.output:
        tensor = outputs[name].tensor_type if name in outputs else None
        if tensor is None or not tensor.HasField("shape"):
            sizes.append((bound * 8, bound))
            continue
        dims = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        count = math.prod(dims)
        sizes.append((count * 8, count))
    return sizes


def _evaluate(
    node: onnx.NodeProto, values: Mapping[str, Any], opsets: Mapping[str, int]
) -> list[Any]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    inputs = list(dict.fromkeys(name for name in node.input if name))
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_empty_tensor_value_info(name) for name in inputs],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()]
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, {name: values[name] for name in inputs})
    except Exception as error:
        raise FoldError(str(error).splitlines()[0][:200] if str(error) else "failed") from None
    made = iter(results)
    return [_as_array(next(made)) if name else None for name in node.output]


def _as_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, (np.generic, int, float, bool)) else value
