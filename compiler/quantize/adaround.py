"""Adaptive rounding: of each weight's two neighbours in steps the one that serves the sums.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020
(arXiv:2004.10568), layer by layer and without labels: what is minimised is the mean square of what
rounding does to the operator's results for its quantised inputs (``rounding``). Where biases are
corrected afterwards, it is the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
from tvm import relax

from compiler.passes.dot_layout import DotLayout
from compiler.passes.packed_values import shape_of
from compiler.quantize.bias_correction import corrected_regions, data_operand
from compiler.quantize.data import CalibrationData
from compiler.quantize.insert import Weights
from compiler.quantize.observe import ObservedModel
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import Quantum
from compiler.quantize.reference_ops import windows
from compiler.quantize.regions import Graph, Region, weights_of
from compiler.quantize.rounding import neighbours, round_sums, shrunk
from compiler.quantize.shuffles import shuffled_groups

MAX_SAMPLES = 128
ROWS = 128  # of each sample, at random places
# Deeper sums are rounded in parts, as if these were independent.
MAX_DEPTH = 4608
# Second moments that are held at once; the data are walked again for the others.
MAX_BYTES = 256 << 20

Count = Callable[[int, int], None]


@dataclass(frozen=True)
class _Form:
    """How an operator's weights are sums of products.

    Args:
        groups: of channels that do not meet.
        depth: weights of one sum.
        taps: positions of the window, the innermost axis of ``depth``.
    """

    groups: int
    depth: int
    taps: int

    @property
    def parts(self) -> list[slice]:
        count = -(-self.depth // MAX_DEPTH)
        edges = [self.depth * i // count for i in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    @property
    def nbytes(self) -> int:
        return sum(4 * self.groups * (p.stop - p.start) ** 2 for p in self.parts)


class AdaptiveRounding:
    """Rounds the weights of a plan's convolutions and products, once for each scale of the inputs.

    Args:
        model: shows the data operands of every plan that is asked for.
        centred: whether biases will be corrected.
        layouts: with bounds on sums of neighbouring weights, the fastest first; weights that one
            takes stay so.
    """

    def __init__(
        self,
        model: ObservedModel,
        data: CalibrationData,
        centred: bool,
        layouts: Sequence[DotLayout],
    ) -> None:
        self.model, self.data = model, data
        self.centred, self.layouts = centred, layouts
        self._found: dict[relax.Var, tuple[Quantum, np.ndarray]] = {}

    def round(
        self,
        plan: Plan,
        activations: Mapping[relax.Var, Quantum],
        weights: Mapping[relax.Var, Weights],
        count: Count = lambda done, total: None,
    ) -> dict[relax.Var, Weights]:
        """The same weights rounded otherwise.

        Those of transposed convolutions stay as they are, and those behind a channel shuffle where
        neighbours have bounds: other channels lie beside each other there.
        """
        graph, rounded = plan.graph, dict(weights)
        regions = [
            r
            for r in corrected_regions(plan)
            if not self.layouts or r.kind == "matmul" or shuffled_groups(graph, r.anchor) == 1
        ]
        missing = []
        for region in regions:
            known = self._found.get(region.anchor)
            if known is None or not known[0].same_as(activations[data_operand(graph, region)]):
                missing.append(region)
        done = 0
        if missing:
            count(done, len(missing))
        for chunk in _chunks(graph, missing):
            moments = self._moments(graph, chunk, activations)
            for region in chunk:
                values = self._rounded(graph, region, moments.pop(region), weights[region.anchor])
                quantum = activations[data_operand(graph, region)]
                self._found[region.anchor] = quantum, values
                done += 1
                count(done, len(missing))
        for region in regions:
            values = self._found[region.anchor][1]
            rounded[region.anchor] = replace(weights[region.anchor], values=values)
        return rounded

    def _moments(
        self, graph: Graph, regions: list[Region], activations: Mapping[relax.Var, Quantum]
    ) -> dict[Region, list[np.ndarray]]:
        """E[x x'] of each part of the sums, [groups, depth, depth]."""
        found = {region: _Moments(_form(graph, region)) for region in regions}
        for index, sample in enumerate(islice(iter(self.data), MAX_SAMPLES)):
            values = self.model.show(sample)
            for region, moments in found.items():
                operand = data_operand(graph, region)
                rng = np.random.default_rng([index, graph.order[region.anchor]])
                rows = _rows(graph.values[region.anchor], values[operand], rng)
                quantum = activations[operand]
                moments.observe(quantum.dequantize(quantum.quantize(rows)))
        return {region: moments.estimate(self.centred) for region, moments in found.items()}

    def _rounded(
        self, graph: Graph, region: Region, moments: list[np.ndarray], weights: Weights
    ) -> np.ndarray:
        form = _form(graph, region)
        real, axis = weights_of(graph, region)
        scale, _ = weights.quantum.along(real.ndim)
        steps = _as_sums(real.astype("float64") / scale, axis, form)
        values = _as_sums(weights.values, axis, form)
        rows = np.moveaxis(weights.values, axis, 0)  # [OC, IC, ...]
        layout = next((found for found in self.layouts if found.takes(rows)), None)
        limit = None
        if layout is not None and form.depth > form.taps:
            limit = neighbours(layout, form.depth, form.taps)
        rounded = round_sums(moments, form.parts, steps, values, limit)
        return _as_weights(rounded, axis, weights.values.shape)


class _Moments:
    """Sums of x x' over rows that stream by."""

    def __init__(self, form: _Form) -> None:
        self.form = form
        sizes = [part.stop - part.start for part in form.parts]
        self.squares = [np.zeros((form.groups, size, size), "float32") for size in sizes]
        self.sums = np.zeros((form.groups, form.depth))
        self.count = 0

    def observe(self, rows: np.ndarray) -> None:
        """Rows [n, ...] of all groups' inputs."""
        form = self.form
        split = rows.reshape(len(rows), form.groups, form.depth).transpose(1, 0, 2)
        self.sums += split.sum(axis=1, dtype="float64")
        self.count += len(rows)
        for total, part in zip(self.squares, form.parts, strict=True):
            cut = split[:, :, part]
            total += np.matmul(cut.transpose(0, 2, 1), cut)

    def estimate(self, centred: bool) -> list[np.ndarray]:
        """E[x x'], of x without its mean if ``centred``."""
        mean = (self.sums / self.count).astype("float32")
        found = []
        for total, part in zip(self.squares, self.form.parts, strict=True):
            total /= self.count
            if centred:
                total -= mean[:, part, None] * mean[:, None, part]
            found.append(shrunk(total, self.count))
        return found


def _form(graph: Graph, region: Region) -> _Form:
    weights, axis = weights_of(graph, region)
    if region.kind == "matmul":
        return _Form(1, weights.shape[1 - axis], 1)
    depth, taps = math.prod(weights.shape[1:]), math.prod(weights.shape[2:])
    return _Form(int(graph.values[region.anchor].attrs.groups), depth, taps)


def _as_sums(weights: np.ndarray, axis: int, form: _Form) -> np.ndarray:
    """[groups, depth, channels of a group]."""
    rows = np.moveaxis(weights, axis, 0).reshape(form.groups, -1, form.depth)
    return rows.transpose(0, 2, 1)


def _as_weights(sums: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    moved = (shape[axis], *(n for a, n in enumerate(shape) if a != axis))
    rows = sums.transpose(0, 2, 1).reshape(moved)
    return np.ascontiguousarray(np.moveaxis(rows, 0, axis))


def _rows(call: relax.Call, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[ROWS at most, ...]: what single sums read of a data operand."""
    if call.op.name == "relax.matmul":
        rows = x.reshape(-1, x.shape[-1])
        return rows[_some(len(rows), rng)]
    attrs, kernel, out = call.attrs, shape_of(call.args[1])[2:], shape_of(call)[2:]
    strides, dilation, padding = (
        [int(v) for v in values] for values in (attrs.strides, attrs.dilation, attrs.padding)
    )
    view = windows(x, kernel, strides, padding[: len(kernel)], dilation, 0.0, out)
    chosen = _some(x.shape[0] * math.prod(out), rng)
    sample, *points = np.unravel_index(chosen, (x.shape[0], *out))
    index: tuple[Any, ...] = (sample, slice(None), *points)
    return view[index].astype("float32")


def _some(count: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= ROWS else np.sort(rng.choice(count, ROWS, replace=False))


def _chunks(graph: Graph, regions: list[Region]) -> Iterator[list[Region]]:
    """Regions whose moments fit into memory together."""
    chunk: list[Region] = []
    nbytes = 0
    for region in regions:
        more = _form(graph, region).nbytes
        if chunk and nbytes + more > MAX_BYTES:
            yield chunk
            chunk, nbytes = [], 0
        chunk.append(region)
        nbytes += more
    if chunk:
        yield chunk
