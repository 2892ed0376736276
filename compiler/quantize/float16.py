"""``--quantize float16|bfloat16``: what is computed in it, and whether a model's numbers fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from compiler.errors import EdgeccError
from compiler.frontend.graph import node_name
from compiler.passes.dot_layout import BFLOAT16
from compiler.quantize.bfloat16 import compute_in_bfloat16
from compiler.quantize.data import CalibrationData
from compiler.quantize.half import LARGEST, HalfModule, compute_in_half
from compiler.quantize.observe import ObservedModel
from compiler.quantize.plan import STRONG, operator_of
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE
from compiler.quantize.recipe import DEFAULT_HALF, Recipe
from compiler.quantize.regions import Graph
from compiler.target import Target, list_targets, load_target


@dataclass(frozen=True, eq=False)
class Narrowed:
    """What came out.

    Args:
        graph: the float32 module.
        half: the new module, and the tensors that it has in 16 bits.
        precision: "float16" or "bfloat16".
    """

    graph: Graph
    half: HalfModule
    precision: str = "float16"

    def summary(self) -> dict[str, int]:
        """Convolutions and products by precision."""
        counts = {self.precision: 0, "float32": 0}
        for region in self.graph.regions:
            if region.kind in STRONG:
                narrow = region.anchor in self.half.products
                counts[self.precision if narrow else "float32"] += 1
        return counts


@dataclass(frozen=True)
class Largest:
    """The magnitude of a tensor's largest number, over all data seen; ``name`` is its node's."""

    name: str
    value: float

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": float(f"{self.value:.6g}")}


def narrow(
    module: tvm.IRModule,
    target: Target,
    recipe: Recipe | None = None,
    half_io: bool = False,
    precision: str = "float16",
) -> Narrowed:
    """A simplified module in float16 or bfloat16.

    Args:
        recipe: of its rules only the precision counts; None: everything that can be is narrow.
        half_io: the new module's inputs and outputs are float16.

    Raises:
        EdgeccError: the target has no such arithmetic, or the model is quantised.
    """
    (require_bfloat16 if precision == BFLOAT16 else require_float16)(target)
    recipe = recipe or DEFAULT_HALF[precision]
    graph = Graph(module)
    if any(graph.op(var) in (QUANTIZE, DEQUANTIZE) for var in graph.values):
        raise EdgeccError(
            f"--quantize {precision}: the model is quantised already", "build it without --quantize"
        )
    kept = frozenset(
        member
        for region in graph.regions
        if recipe.choice(operator_of(region), region.names).precision == "float32"
        for member in region.members
    )
    if precision == BFLOAT16:
        return Narrowed(graph, compute_in_bfloat16(module, target, kept), precision)
    return Narrowed(graph, compute_in_half(module, kept, half_io))


def require_float16(target: Target) -> None:
    """Refuses a target whose vector unit does not compute in float16.

    Raises:
        EdgeccError: it does not.
    """
    if not target.has_float16:
        raise EdgeccError(
            f"--quantize float16: {target.name} has no arithmetic in float16",
            'targets with "+fullfp16" (AArch64) or "+zvfh" (RISC-V) in their features have: '
            + _shipped(lambda known: known.has_float16),
        )


def require_bfloat16(target: Target) -> None:
    """Refuses a target without dot products of bfloat16.

    Raises:
        EdgeccError: it has none.
    """
    if not target.has_bfloat16:
        raise EdgeccError(
            f"--quantize bfloat16: {target.name} has no products of bfloat16",
            'targets with "+bf16" (AArch64) or "+avx512bf16" (x86-64) in their features have: '
            + _shipped(lambda known: known.has_bfloat16),
        )


def _shipped(able: Callable[[Target], bool]) -> str:
    """Names of our targets that can do something, and what to take on others."""
    names = (name for name in list_targets() if name != "host")
    found = ", ".join(name for name in names if able(load_target(name)))
    return f"{found}; --quantize int8 is fast on most others"


def check_ranges(narrowed: Narrowed, data: CalibrationData) -> Largest | None:
    """The largest number over all samples of what shall be float16.

    Raises:
        EdgeccError: it is too large.
    """
    found: dict[relax.Var, float] = {}

    def watch(index: int, values: Mapping[relax.Var, np.ndarray]) -> None:
        for var, value in values.items():
            found[var] = max(found.get(var, 0.0), magnitude(value))

    with ObservedModel(narrowed.graph.module, data.inputs, _ordered(narrowed)) as model:
        model.walk(data, watch)
    return refuse_overflow(narrowed, found)


def refuse_overflow(narrowed: Narrowed, found: Mapping[relax.Var, float]) -> Largest | None:
    """The largest of the magnitudes of what shall be float16.

    Raises:
        EdgeccError: float16 does not hold it.
    """
    rows = [Largest(_name(narrowed, v), found[v]) for v in _ordered(narrowed) if v in found]
    for largest in rows:
        if not largest.value <= LARGEST:
            raise EdgeccError(
                f"--quantize float16: '{largest.name}' reaches {largest.value:.6g}, "
                f"float16 ends at {LARGEST:g}",
                "a recipe leaves it and what reads it in float32: --recipe FILE with "
                f'match = "{largest.name}", precision = "float32"',
            )
    return max(rows, key=lambda row: row.value, default=None)


def magnitude(values: np.ndarray) -> float:
    """max|x|; infinite where that is no number."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


def _ordered(narrowed: Narrowed) -> list[relax.Var]:
    """Tensors that become float16, in order of execution."""
    wanted = narrowed.half.narrowed
    everything = [*narrowed.graph.params, *narrowed.graph.values]
    return [v for v in everything if v in wanted and str(getattr(v.ty, "dtype", "")) == "float32"]


def _name(narrowed: Narrowed, var: relax.Var) -> str:
    """Of the node that makes a tensor: steps in between are called what their kernel is called."""
    region = narrowed.graph.region_of.get(var)
    name = node_name(var)
    return name if region is None or name in region.names else region.name
