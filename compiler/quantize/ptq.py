"""Post-training quantisation: float module and calibration data in, interchange form out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from compiler.codegen import KernelCache
from compiler.errors import EdgeccError
from compiler.passes.dot_layout import DotLayout, activation_dtype, dot_layouts, wide_layouts
from compiler.passes.packed_values import shape_of
from compiler.quantize.adaround import AdaptiveRounding
from compiler.quantize.bias_correction import TapMeans, correct_biases, operands
from compiler.quantize.calibrators import Calibrator, Range, make_calibrator
from compiler.quantize.costs import Costs, convolution_costs, matmul_costs
from compiler.quantize.data import CalibrationData
from compiler.quantize.equalize import equalize
from compiler.quantize.functions import OfFunction, split_functions
from compiler.quantize.insert import Copy, Weights, insert
from compiler.quantize.neighbours import quantize_for
from compiler.quantize.observe import ObservedModel
from compiler.quantize.plan import Plan, make_plan, operator_of
from compiler.quantize.qdq import Quantum
from compiler.quantize.recipe import Recipe, Rule
from compiler.quantize.regions import Graph, Region, weights_of
from compiler.quantize.scales import (
    asymmetric,
    beside_words,
    quantize_weights,
    symmetric,
    symmetric_words,
)
from compiler.quantize.shuffles import neighbours_behind_shuffle, shuffled_groups
from compiler.quantize.weight_only import stored_as
from compiler.target import Target

Progress = Callable[[str, int, int], None]

IN_FLOATS = Rule("*", precision="float32")


@dataclass(frozen=True, eq=False)
class Quantized:
    """What came out.

    Args:
        module: in the interchange form.
        plan: the decisions, over the float module's variables.
        activations: scales and zero points of all stored tensors.
        weights: of all convolutions and products in integers.
        copies: of stored tensors and results in ``module``.
    """

    module: tvm.IRModule
    plan: Plan
    activations: dict[relax.Var, Quantum]
    weights: dict[relax.Var, Weights]
    copies: dict[relax.Var, Copy]

    def of_inputs(self) -> list[Quantum | None]:
        """Of the model's inputs; None for what it takes as floats."""
        return [self._stored_only(var) for var in self.plan.graph.params]

    def of_outputs(self) -> list[Quantum | None]:
        return [self._stored_only(var) for var in self.plan.graph.outputs]

    def _stored_only(self, var: relax.Var) -> Quantum | None:
        stored = self.plan.stored.get(var)
        return None if stored is None or stored.copy else self.activations[var]

    def summary(self) -> dict[str, int]:
        """Convolutions and products by the precision that was decided on.

        Where there are any, "int16" are those that read 16 bits beside weights of 8, "weights-int8"
        and "weights-int4" products of floats with weights in integers.
        """
        counts = {"int8": 0, "float32": 0}
        words = self.plan.words()
        for region in self.plan.graph.regions:
            if region.kind in ("convolution", "matmul", "product"):
                precision = "int8" if self.plan.is_integer(region) else "float32"
                precision = stored_as(self.plan, region) or precision
                if precision == "int8" and _reads_words(self.plan, region, words):
                    precision = "int16"
                counts[precision] = counts.get(precision, 0) + 1
        return counts

    def kept(self) -> list[dict[str, str]]:
        """Operators that compute in floats because integers would be slower."""
        return [
            {"operator": operator_of(region), "node": region.name, "why": str(costs)}
            for region, costs in self.plan.kept.items()
        ]


def quantize(
    module: tvm.IRModule,
    target: Target,
    data: CalibrationData | None,
    recipe: Recipe,
    progress: Progress = lambda stage, done, total: None,
    integer_io: bool = False,
    exact: bool = False,
) -> Quantized:
    """Quantises a simplified module; for a CPU without products of bytes nothing, since it computes
    floats faster.

    Args:
        data: samples of its inputs; None: operators compute floats, whatever the recipe says, and
            weights alone are stored as it says.
        integer_io: the new module takes and returns integers where it stores them.
        exact: floats are not computed by Winograd's algorithm.

    Raises:
        EdgeccError: the data do not fit the model.
    """
    if data is None:
        recipe = _in_floats(recipe)
        module = equalize(module) if recipe.equalization else module
        plan = make_plan(Graph(module), recipe, integer_io)
        made, copies = insert(plan, {}, {}, activation_dtype(target))
        return Quantized(made, plan, {}, {}, copies)
    with Quantizer(module, target, data, recipe, progress, integer_io, exact) as quantizer:
        return quantizer.quantize()


class Quantizer:
    """Quantises one module by a recipe, and with more operators left in float32.

    What the data tell is measured once. Arguments as of ``quantize``.

    Args:
        variants: whether ``quantize`` will be called with operators to leave in float32.
        cache: of kernels for this machine.
    """

    def __init__(
        self,
        module: tvm.IRModule,
        target: Target,
        data: CalibrationData,
        recipe: Recipe,
        progress: Progress = lambda stage, done, total: None,
        integer_io: bool = False,
        exact: bool = False,
        variants: bool = False,
        cache: KernelCache | None = None,
    ) -> None:
        if not dot_layouts(target):
            recipe = _in_floats(recipe)
        if recipe.equalization:
            module = equalize(module)
        self.module, self.target, self.recipe = module, target, recipe
        self.progress, self.integer_io = progress, integer_io
        self.graph = Graph(module)
        split_functions(self.graph, self._is_looked_up)
        functions = {f.source: f.compute for f in self.graph.functions.values()}
        self._costs = _costs(self.graph, target, integer_io, exact)
        plan = make_plan(self.graph, recipe, integer_io, self._costs)
        _refuse_words(plan, target)
        calibrators = {
            var: OfFunction(functions[var])
            if var in functions
            else make_calibrator(stored.calibrator)
            for var, stored in plan.stored.items()
            if variants or not _is_moved(plan, var)
        }
        seen = operands(plan) if recipe.bias_correction or recipe.adaround else []
        if calibrators:
            progress("calibrate", 0, 0)
        self.model = ObservedModel(module, data.inputs, [*calibrators, *seen], cache)
        try:
            # A plan without stored tensors needs no data.
            if calibrators:
                _calibrate(calibrators, self.model, data, progress)
        except BaseException:
            self.model.close()
            raise
        self._ranges = {var: (found.range(), found.seen) for var, found in calibrators.items()}
        self._weights: dict[tuple[relax.Var, bool], Weights] = {}
        self._means = TapMeans(self.model, data)
        bounded = bounded_layouts(target)
        self._rounding = AdaptiveRounding(self.model, data, recipe.bias_correction, bounded)

    def quantize(self, floats: Sequence[Rule] = ()) -> Quantized:
        """The module by the recipe and more rules, all of which say float32 or int16."""
        recipe = replace(self.recipe, rules=(*self.recipe.rules, *floats))
        plan = make_plan(self.graph, recipe, self.integer_io, self._costs)
        activations = choose_quanta(plan, self._ranges, activation_dtype(self.target))
        weights = self._weights_of(plan)
        if recipe.adaround:
            weights = self._rounding.round(plan, activations, weights, self._count(floats))
        if recipe.bias_correction:
            if not floats:  # else the means are known
                self.progress("correct biases", 0, 0)
            weights = correct_biases(plan, self._means, activations, weights)
        made, copies = insert(plan, activations, weights, activation_dtype(self.target))
        return Quantized(made, plan, activations, weights, copies)

    def _is_looked_up(self, region: Region) -> bool:
        """Whether the recipe wants a region's function as a table of what 8 bits hold."""
        choice = self.recipe.choice(operator_of(region), region.names)
        return choice.functions == "table" and choice.activations != "int16"

    def _count(self, floats: Sequence[Rule]) -> Callable[[int, int], None]:
        """Says how many operators are rounded, unless a search does."""
        if floats:
            return lambda done, total: None
        return lambda done, total: self.progress("round weights", done, total)

    def _weights_of(self, plan: Plan) -> dict[relax.Var, Weights]:
        """Of all convolutions and products with constant weights that are computed in integers."""
        words, found = plan.words(), {}
        for region in plan.graph.regions:
            if plan.is_integer(region) and region.kind != "product":
                key = region.anchor, _reads_words(plan, region, words)
                if key not in self._weights:
                    self._weights[key] = quantize_weights_of(plan, region, self.target, key[1])
                found[region.anchor] = self._weights[key]
        return found

    def __enter__(self) -> Quantizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()


def _reads_words(plan: Plan, region: Region, words: frozenset[relax.Var]) -> bool:
    """Whether an operator multiplies what is stored in 16 bits."""
    static = region not in plan.dynamic
    return static and any(var in words for var in plan.graph.operands[region.anchor])


def _refuse_words(plan: Plan, target: Target) -> None:
    """Raises an error where a CPU has no products of 16 bits that are worth their name."""
    if plan.words() and not wide_layouts(target):
        raise EdgeccError(
            f'the recipe says activations = "int16", which {target.name} computes no faster than '
            "float32",
            'write precision = "float32" instead; edgecc targets lists other CPUs',
        )


def _in_floats(recipe: Recipe) -> Recipe:
    rules = (*recipe.rules, IN_FLOATS)
    return replace(recipe, rules=rules, bias_correction=False, adaround=False)


def _costs(graph: Graph, target: Target, integer_io: bool, exact: bool) -> dict[Region, Costs]:
    """Of the operators that could be faster in floats."""
    found = {}
    for region in graph.regions:
        costs = None
        if region.kind == "convolution":
            outside = graph.operands[region.anchor][0] in graph.params and not integer_io
            costs = convolution_costs(graph.values[region.anchor], target, outside, exact)
        elif region.kind == "matmul":
            sharing = _sharing_products(graph, region, integer_io)
            costs = matmul_costs(graph.values[region.anchor], target, sharing)
        if costs is not None:
            found[region] = costs
    return found


def _sharing_products(graph: Graph, region: Region, integer_io: bool) -> int:
    """Products whose left operand is quantised for them alone; 0 for one that is stored so."""
    data = graph.operands[region.anchor][0]
    stored = integer_io if data in graph.params else graph.region_of[data].kind != "float"
    if stored and len(shape_of(data)) == 2:  # others are quantised row by row at run time
        return 0
    readers = {graph.region_of[reader] for reader in graph.readers[data]}
    products = [r for r in readers if r.kind == "matmul" and data in graph.operands[r.anchor]]
    return len(products)


def node_names(graph: Graph, kept: Mapping[Region, Costs] | None = None) -> list[tuple[str, str]]:
    """(operator, name) of all regions that a recipe can say something about.

    Behind the name stands why an operator stays in floats, where a plan decided that.
    """
    why = {region: f"   float32: {costs}" for region, costs in (kept or {}).items()}
    return [(operator_of(r), r.name + why.get(r, "")) for r in graph.regions if r.kind != "float"]


def _calibrate(
    calibrators: dict[relax.Var, Calibrator],
    model: ObservedModel,
    data: CalibrationData,
    progress: Progress,
) -> None:
    """Shows the calibrators their tensors."""

    def watch(index: int, values: dict[relax.Var, np.ndarray]) -> None:
        for var, calibrator in calibrators.items():
            calibrator.observe(values[var])
        progress("calibrate", index + 1, 0)

    model.walk(data, watch)


def _is_moved(plan: Plan, var: relax.Var) -> bool:
    """Whether the tensor is another stored one in another order."""
    region = plan.graph.region_of.get(var)
    return region is not None and region.kind == "move" and not plan.stored[var].copy


def choose_quanta(
    plan: Plan, ranges: dict[relax.Var, tuple[Range, Range]], dtype: str
) -> dict[relax.Var, Quantum]:
    """Scales and zero points; tensors of a group get those of the union of their ranges.

    Args:
        ranges: to cover with 8 bits, and what was seen, which 16 bits cover.
        dtype: of 8 bits.
    """
    quanta, words = {}, plan.words()
    for members in plan.groups().values():
        wide = members[0] in words
        known = [ranges[var][wide] for var in members if not _is_moved(plan, var)]
        low, high = min(r[0] for r in known), max(r[1] for r in known)
        quantum = symmetric_words(low, high) if wide else asymmetric(low, high, dtype)
        quanta.update(dict.fromkeys(members, quantum))
    return quanta


def _for_layouts(
    plan: Plan, region: Region, layouts: list[DotLayout]
) -> tuple[np.ndarray, Quantum]:
    """Weights for the fastest of some layouts, in the order in which channels will lie."""
    values, axis = weights_of(plan.graph, region)
    single = [layout for layout in layouts if layout.parts == 1]
    if region.kind != "convolution":
        return quantize_for(values, axis, values.ndim - 2, single)
    groups = int(plan.graph.values[region.anchor].attrs.groups)
    parts = shuffled_groups(plan.graph, region.anchor) if axis == 0 else 1
    if parts == 1:
        return quantize_for(values, axis, 1 - axis, layouts if groups == 1 else single)
    slots = neighbours_behind_shuffle(len(values), values.shape[1], groups, parts)
    rows, found = np.nonzero(slots >= 0)
    spread = np.zeros((len(values), slots.shape[1], *values.shape[2:]), values.dtype)
    spread[rows, found] = values[rows, slots[rows, found]]
    stored, quantum = quantize_for(spread, axis, 1, single)
    result = np.zeros(values.shape, stored.dtype)
    result[rows, slots[rows, found]] = stored[rows, found]
    return result, quantum


def bounded_layouts(target: Target) -> list[DotLayout]:
    """Those whose sums of neighbouring weights have a bound, the fastest first."""
    return [layout for layout in dot_layouts(target) if layout.most_neighbours is not None]


def quantize_weights_of(plan: Plan, region: Region, target: Target, words: bool) -> Weights:
    """The constant weights of a convolution or product.

    Args:
        words: whether they multiply 16 bits.
    """
    values, axis = weights_of(plan.graph, region)
    per_channel = plan.choices[region].granularity == "per_channel"
    layouts = bounded_layouts(target)
    if words:
        quantum = beside_words(values, axis, per_channel)
    elif per_channel and layouts:
        return Weights(*_for_layouts(plan, region, layouts))
    else:
        quantum = symmetric(values, axis if per_channel else None)
    return Weights(quantize_weights(values, quantum), quantum)
