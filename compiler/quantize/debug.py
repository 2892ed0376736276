"""Where the error of a quantised model comes from, layer by layer.

Each stored tensor is computed twice over the same samples, by the float graph and by the quantised
one, both with NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tvm import relax

from compiler.quantize.data import CalibrationData
from compiler.quantize.noise import Noise
from compiler.quantize.plan import operator_of
from compiler.quantize.ptq import Quantized
from compiler.quantize.reference import Evaluator

MAX_SAMPLES = 8
BAD_DB = 20.0


@dataclass(frozen=True)
class Layer:
    """One tensor that the quantised graph stores, or hands over at the end.

    Args:
        name: of the ONNX node that makes it.
        operator: type of the first operator of its kernel.
        sqnr_db: of the tensor in the quantised against the float model, all errors before included.
        cosine: similarity of both.
        share: of all error that layers add, 0 to 1; a layer adds its noise over signal less the
            largest of the layers that it reads.
    """

    name: str
    operator: str
    sqnr_db: float
    cosine: float
    share: float


@dataclass(frozen=True)
class Diagnosis:
    """Args:
    layers: in order of execution.
    first_bad: the first in order of execution below ``BAD_DB``; None where there is none.
    outputs_db: SQNR of the model's outputs.
    """

    layers: tuple[Layer, ...]
    first_bad: Layer | None
    outputs_db: dict[str, float]

    def worst(self) -> list[Layer]:
        """Those that add most first."""
        return sorted(self.layers, key=lambda layer: -layer.share)


def diagnose(quantized: Quantized, data: CalibrationData, names: Iterable[str]) -> Diagnosis:
    """Compares both graphs on the first samples.

    Args:
        names: of the model's outputs.
    """
    graph = quantized.plan.graph
    regions = [r for r in graph.regions if r.end in quantized.copies]
    sums = {region.end: Noise() for region in regions}
    exact, made = Evaluator(graph.module), Evaluator(quantized.module)
    params = {p.name: i.name for p, i in zip(graph.params, data.inputs, strict=True)}
    for sample in islice(iter(data), MAX_SAMPLES):
        given = {name: sample[input_name] for name, input_name in params.items()}
        wanted = exact.trace(given, sums)
        copies = {var: quantized.copies[var] for var in sums}
        found = made.trace(_stored_inputs(quantized, given), [c.var for c in copies.values()])
        for var, copy in copies.items():
            value = found[copy.var]
            sums[var].add(wanted[var], copy.quantum.dequantize(value) if copy.quantum else value)
    layers = _layers(quantized, sums)
    bad = next((layer for layer in layers if layer.sqnr_db < BAD_DB), None)
    outputs = {n: sums[v].db for n, v in zip(names, graph.outputs, strict=True) if v in sums}
    return Diagnosis(tuple(layers), bad, outputs)


def _stored_inputs(quantized: Quantized, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    pairs = zip(given.items(), quantized.of_inputs(), strict=True)
    return {name: x if q is None else q.quantize(x) for (name, x), q in pairs}


def _layers(quantized: Quantized, sums: dict[relax.Var, Noise]) -> list[Layer]:
    """In order of execution."""
    graph = quantized.plan.graph
    added = {}
    for var in sums:
        before = [sums[v].ratio for v in graph.region_of[var].inputs if v in sums]
        added[var] = max(sums[var].ratio - max(before, default=0.0), 0.0)
    total = sum(added.values()) or 1.0
    return [
        Layer(
            graph.region_of[var].name,
            operator_of(graph.region_of[var]),
            sum_.db,
            sum_.cosine,
            added[var] / total,
        )
        for var, sum_ in sums.items()
    ]
