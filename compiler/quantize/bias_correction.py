"""Biases that make up for what rounding shifts on average.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2, with the means measured on calibration data: each channel of a convolution or product
is to keep its mean, E[W x] = E[W' x'] + correction, where W' and x' are the quantised W and x. The
operators are corrected one by one, each for inputs of the float model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from tvm import relax

from compiler.passes.packed_values import shape_of
from compiler.quantize.data import CalibrationData
from compiler.quantize.functions import rounded
from compiler.quantize.insert import Weights
from compiler.quantize.observe import ObservedModel
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import Quantum
from compiler.quantize.reference_ops import padded
from compiler.quantize.regions import Graph, Region, weights_of

# Means settle soon.
MAX_SAMPLES = 64


class TapMeans:
    """What the weights' taps see on average, as floats and quantised; measured once for each scale.

    Args:
        model: shows ``operands`` of every plan that is asked for.
    """

    def __init__(self, model: ObservedModel, data: CalibrationData) -> None:
        self.model, self.data = model, data
        self._found: dict[relax.Var, tuple[list[Quantum], np.ndarray]] = {}

    def of(self, plan: Plan, activations: Mapping[relax.Var, Quantum]) -> dict[relax.Var, Any]:
        """[2, C, taps], float and quantised, by the result of each operator to correct."""
        graph = plan.graph
        inputs = {r.anchor: data_operand(graph, r) for r in corrected_regions(plan)}
        missing = {
            anchor: var
            for anchor, var in inputs.items()
            if not self._has(anchor, _quanta(graph, var, activations))
        }
        if missing:
            self._measure(graph, missing, activations)
        return {anchor: self._found[anchor][1] for anchor in inputs}

    def _has(self, anchor: relax.Var, quanta: list[Quantum]) -> bool:
        known = self._found[anchor][0] if anchor in self._found else []
        return len(known) == len(quanta) and all(map(Quantum.same_as, known, quanta))

    def _measure(
        self,
        graph: Graph,
        inputs: dict[relax.Var, relax.Var],
        activations: Mapping[relax.Var, Quantum],
    ) -> None:
        sums: dict[relax.Var, np.ndarray] = {}
        count = 0

        def watch(index: int, values: dict[relax.Var, np.ndarray]) -> None:
            nonlocal count
            count += 1
            for anchor, var in inputs.items():
                both = np.stack([values[var], rounded(graph, var, activations, values)])
                means = tap_means(graph.values[anchor], both)
                sums[anchor] = sums[anchor] + means if anchor in sums else means

        self.model.walk(islice(iter(self.data), MAX_SAMPLES), watch)
        for anchor, var in inputs.items():
            self._found[anchor] = _quanta(graph, var, activations), sums[anchor] / count


def correct_biases(
    plan: Plan,
    means: TapMeans,
    activations: Mapping[relax.Var, Quantum],
    weights: Mapping[relax.Var, Weights],
) -> dict[relax.Var, Weights]:
    """The weights with biases; those of transposed convolutions stay as they are."""
    graph = plan.graph
    seen = means.of(plan, activations)
    corrected = dict(weights)
    for region in corrected_regions(plan):
        real, _ = weights_of(graph, region)
        found = weights[region.anchor]
        stored = found.quantum.dequantize(found.values)
        exact, rounded = seen[region.anchor]
        shift = _respond(graph, region, real, exact) - _respond(graph, region, stored, rounded)
        corrected[region.anchor] = replace(found, bias=shift.astype("float32"))
    return corrected


def operands(plan: Plan) -> list[relax.Var]:
    """Tensors that the correction must see."""
    return [
        var
        for region in corrected_regions(plan)
        for var in _path(plan.graph, data_operand(plan.graph, region))
    ]


def _path(graph: Graph, var: relax.Var) -> list[relax.Var]:
    """A tensor, and what it is looked up by."""
    function = graph.functions.get(var)
    return [var] if function is None else [var, function.source]


def _quanta(
    graph: Graph, var: relax.Var, activations: Mapping[relax.Var, Quantum]
) -> list[Quantum]:
    return [activations[v] for v in _path(graph, var) if v in activations]


def corrected_regions(plan: Plan) -> list[Region]:
    """Operators with calibrated ranges and weights, transposed convolutions excepted."""
    graph = plan.graph
    return [
        r
        for r in graph.regions
        if plan.is_integer(r)
        and r not in plan.dynamic
        and r.kind != "product"
        and _is_direct(graph, r)
    ]


def _is_direct(graph: Graph, region: Region) -> bool:
    return region.kind == "matmul" or "transpose" not in graph.op(region.anchor)


def data_operand(graph: Graph, region: Region) -> relax.Var:
    """What the weights are multiplied by."""
    return graph.operands[region.anchor][0]


def tap_means(call: relax.Call, x: np.ndarray) -> np.ndarray:
    """What each tap of the weights sees on average: [n, C, taps] of [n, N, C, ...] inputs.

    Of products: [n, K, 1].
    """
    if call.op.name == "relax.matmul":
        return x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype="float64")[:, :, None]
    attrs = call.attrs
    kernel = shape_of(call.args[1])[2:]
    out = shape_of(call)[2:]
    rank = len(kernel)
    strides, dilation = _ints(attrs.strides), _ints(attrs.dilation)
    sums = padded(x, kernel, strides, _ints(attrs.padding)[:rank], dilation, 0.0, out)
    # axis by axis, the last first: [..., extents before, taps of this axis, taps behind]
    for axis in reversed(range(rank)):
        position = x.ndim - rank + axis
        parts = []
        for tap in range(kernel[axis]):
            start = tap * dilation[axis]
            index = [slice(None)] * sums.ndim
            end = start + (out[axis] - 1) * strides[axis] + 1
            index[position] = slice(start, end, strides[axis])
            parts.append(sums[tuple(index)].sum(axis=position, dtype="float64"))
        sums = np.stack(parts, axis=position)
    return sums.reshape(*x.shape[:3], -1).mean(axis=1) / math.prod(out)


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def _respond(graph: Graph, region: Region, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The mean of each output channel for mean inputs [C, taps]."""
    if region.kind == "matmul":
        return means[:, 0] @ weights.astype("float64")
    groups = int(graph.values[region.anchor].attrs.groups)
    split = weights.astype("float64").reshape(groups, weights.shape[0] // groups, -1)
    return np.einsum("got,gt->go", split, means.reshape(groups, -1)).ravel()
