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

import numpy as np
from tvm import relax

from compiler.passes.packed_values import shape_of
from compiler.quantize.data import CalibrationData
from compiler.quantize.insert import Weights
from compiler.quantize.observe import ObservedModel
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import Quantum
from compiler.quantize.reference_ops import windows
from compiler.quantize.regions import Graph, Region, weights_of

# Means settle soon.
MAX_SAMPLES = 64


def correct_biases(
    plan: Plan,
    model: ObservedModel,
    data: CalibrationData,
    activations: Mapping[relax.Var, Quantum],
    weights: Mapping[relax.Var, Weights],
) -> dict[relax.Var, Weights]:
    """The weights with biases; those of transposed convolutions stay as they are.

    Args:
        model: shows ``operands``.
    """
    graph = plan.graph
    regions = _corrected(plan)
    inputs = {region.anchor: _data_operand(graph, region) for region in regions}
    sums: dict[relax.Var, np.ndarray] = {}
    count = 0

    def watch(index: int, values: dict[relax.Var, np.ndarray]) -> None:
        nonlocal count
        count += 1
        for anchor, var in inputs.items():
            x, quantum = values[var], activations[var]
            both = np.stack([x, quantum.dequantize(quantum.quantize(x))])
            means = tap_means(graph.values[anchor], both)
            sums[anchor] = sums[anchor] + means if anchor in sums else means

    model.walk(islice(iter(data), MAX_SAMPLES), watch)
    corrected = dict(weights)
    for region in regions:
        real, _ = weights_of(graph, region)
        found = weights[region.anchor]
        stored = found.quantum.dequantize(found.values)
        means = sums[region.anchor] / count
        shift = _respond(graph, region, real, means[0]) - _respond(graph, region, stored, means[1])
        corrected[region.anchor] = replace(found, bias=shift.astype("float32"))
    return corrected


def operands(plan: Plan) -> list[relax.Var]:
    """Tensors that the correction must see."""
    return [_data_operand(plan.graph, region) for region in _corrected(plan)]


def _corrected(plan: Plan) -> list[Region]:
    """Those with calibrated ranges and weights."""
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


def _data_operand(graph: Graph, region: Region) -> relax.Var:
    return graph.operands[region.anchor][0]


def tap_means(call: relax.Call, x: np.ndarray) -> np.ndarray:
    """What each tap of the weights sees on average: [n, C, taps] of [n, N, C, ...] inputs.

    Of products: [n, K, 1].
    """
    if call.op.name == "relax.matmul":
        return x.reshape(len(x), -1, x.shape[-1]).mean(axis=1, dtype="float64")[:, :, None]
    attrs = call.attrs
    kernel = shape_of(call.args[1])[2:]
    flat = x.reshape(-1, *x.shape[2:])
    view = windows(
        flat,
        kernel,
        [int(s) for s in attrs.strides],
        [int(p) for p in attrs.padding][: len(kernel)],
        [int(d) for d in attrs.dilation],
        0.0,
        shape_of(call)[2:],
    )
    points = tuple(range(2, 2 + len(kernel)))
    means = view.mean(axis=points, dtype="float64").reshape(*x.shape[:3], math.prod(kernel))
    return means.mean(axis=1)


def _respond(graph: Graph, region: Region, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The mean of each output channel for mean inputs [C, taps]."""
    if region.kind == "matmul":
        return means[:, 0] @ weights.astype("float64")
    groups = int(graph.values[region.anchor].attrs.groups)
    split = weights.astype("float64").reshape(groups, weights.shape[0] // groups, -1)
    return np.einsum("got,gt->go", split, means.reshape(groups, -1)).ravel()
