"""Which tensors are stored as integers, and which of them share a scale: plain data, decided before
the graph is touched.

A tensor is stored quantised where its producer computes on integers and all its readers do; where
only its producer or some readers don't, convolutions and products read a quantised copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import relax

from compiler.passes.packed_values import shape_of
from compiler.quantize.costs import Costs
from compiler.quantize.dynamic import fits
from compiler.quantize.recipe import Choice, Recipe
from compiler.quantize.regions import Graph, Region

STRONG = ("convolution", "matmul", "product")
# Precisions that let an operator read integers.
INTEGERS = ("auto", "int8")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that exists as integers.

    Args:
        var: the float tensor.
        copy: only convolutions and products read the integers.
        calibrator: by which its range is found.
        like: a tensor stored before, whose scale and zero point it has too.
    """

    var: relax.Var
    copy: bool
    calibrator: str
    like: relax.Var | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """All decisions that need no data.

    Args:
        graph: what they are about.
        choices: what the recipe says of each region.
        stored: in order of execution.
        quantized: regions that read integers.
        dynamic: products whose left operand is quantised row by row at run time (``dynamic``).
        integer_io: the model takes and returns integers where it can.
        kept: regions that compute in floats between stored integers, since that is faster.
    """

    graph: Graph
    choices: dict[Region, Choice]
    stored: dict[relax.Var, Stored]
    quantized: frozenset[Region]
    dynamic: frozenset[Region] = frozenset()
    integer_io: bool = False
    kept: Mapping[Region, Costs] = field(default_factory=dict)

    def is_integer(self, region: Region) -> bool:
        """Whether a convolution or product is computed in integers."""
        strong = region in self.quantized and region.kind in STRONG and region not in self.kept
        return region in self.dynamic or strong

    def reads_integers(self, region: Region) -> bool:
        """Stored ones, or rows that become integers at run time."""
        return region in self.quantized or region in self.dynamic

    def groups(self) -> dict[relax.Var, list[relax.Var]]:
        """Tensors that share scale and zero point, by the first of them."""
        groups: dict[relax.Var, list[relax.Var]] = {}
        for var in self.stored:
            groups.setdefault(self.leader(var), []).append(var)
        return groups

    def words(self) -> frozenset[relax.Var]:
        """Stored tensors of 16 bits: what operators read that want so, and what shares its scale.

        Others that read them get 16 bits, too.
        """
        found: set[relax.Var] = set()
        for members in self.groups().values():
            if any(self._is_wanted_in_words(var) for var in members):
                found.update(members)
        return frozenset(found)

    def _is_wanted_in_words(self, var: relax.Var) -> bool:
        for reader in self.graph.readers.get(var, ()):
            region = self.graph.region_of[reader]
            reads = region in self.quantized and self.choices[region].activations == "int16"
            multiplies = region.kind in STRONG and var in self.graph.operands[region.anchor]
            if reads and (multiplies or not self.stored[var].copy):
                return True
        return False

    def leader(self, var: relax.Var) -> relax.Var:
        like = self.stored[var].like
        return var if like is None else self.leader(like)


def make_plan(
    graph: Graph,
    recipe: Recipe,
    integer_io: bool = False,
    costs: Mapping[Region, Costs] | None = None,
) -> Plan:
    """Applies a recipe to a graph.

    Args:
        costs: of regions that could be faster in floats.
    """
    return _Planner(graph, recipe, integer_io, costs or {}).plan()


class _Planner:
    def __init__(
        self, graph: Graph, recipe: Recipe, integer_io: bool, costs: Mapping[Region, Costs]
    ) -> None:
        self.graph, self.integer_io = graph, integer_io
        self.choices = {r: recipe.choice(operator_of(r), r.names) for r in graph.regions}
        self.kept = {
            region: found
            for region, found in costs.items()
            if found.slower_in_integers and self.choices[region].precision == "auto"
        }
        self.of_rows = frozenset(r for r in graph.regions if self._is_of_rows(r))
        self.dynamic = self.of_rows - self.kept.keys()
        self.wanted: set[relax.Var] = set()
        self.quantized: set[Region] = set()
        self.stored: dict[relax.Var, Stored] = {}

    def plan(self) -> Plan:
        graph = self.graph
        for region in reversed(graph.regions):
            if self._is_wanted(region.end):
                self.wanted.add(region.end)
        for param in graph.params:
            self._store(param, None)
        for region in graph.regions:
            if self._computes_integers(region):
                self.quantized.add(region)
            self._store(region.end, region)
        quantized = frozenset(self.quantized)
        return Plan(
            graph,
            self.choices,
            self.stored,
            quantized,
            self.dynamic,
            self.integer_io,
            self.kept,
        )

    def _is_of_rows(self, region: Region) -> bool:
        """Whether its left operand is quantised row by row, if it is.

        One row a sample gains nothing: its range is the tensor's.
        """
        choice = self.choices[region]
        if region.kind != "matmul" or choice.precision not in INTEGERS:
            return False
        call = self.graph.values[region.anchor]
        if choice.activations == "auto":
            return len(shape_of(call.args[0])) > 2 and fits(call)
        return choice.activations == "dynamic" and fits(call)

    def _allowed(self, region: Region) -> bool:
        """Whether it may read integers of calibrated ranges."""
        known = region.kind != "float" and region not in self.of_rows
        return known and self.choices[region].precision in INTEGERS

    def _is_wanted(self, var: relax.Var) -> bool:
        """Whether all readers would take integers, and one of them computes with these."""
        readers = self._reading_regions(var)
        if var in self.graph.results:
            return self.integer_io and all(self._wants(region, var) for region in readers)
        if all(region in self.kept for region in readers):
            return False
        return all(self._wants(region, var) for region in readers)

    def _reading_regions(self, var: relax.Var) -> list[Region]:
        found = (self.graph.region_of[r] for r in self.graph.readers.get(var, ()))
        return list(dict.fromkeys(found))

    def _wants(self, region: Region, var: relax.Var) -> bool:
        if not self._allowed(region) or str(var.ty.dtype) != "float32":
            return False
        if region.kind in STRONG:
            return self._multiplies(region, var) or shape_of(var) == shape_of(region.end)
        if region.end not in self.wanted:
            return False
        # a factor a channel is small, and its error counts for all of the channel
        return region.kind != "pointwise" or shape_of(var) == shape_of(region.end)

    def _multiplies(self, region: Region, var: relax.Var) -> bool:
        return region.kind in STRONG and var in self.graph.operands[region.anchor]

    def _computes_integers(self, region: Region) -> bool:
        if not self._allowed(region):
            return False
        if region.kind in STRONG:
            return True
        return region.end in self.wanted and any(
            v in self.stored and not self.stored[v].copy for v in region.inputs
        )

    def _store(self, var: relax.Var, region: Region | None) -> None:
        """Decides about a tensor: stored as integers, copied, or neither."""
        if str(getattr(var.ty, "dtype", "")) != "float32":
            return
        whole = region in self.quantized and var in self.wanted
        copy = any(
            self._multiplies(reader, var) and self._allowed(reader)
            for reader in self._reading_regions(var)
            if reader not in self.kept or (region is None and self.integer_io)
        )
        if not whole and not copy:
            return
        whole = whole or (region is None and self.integer_io)
        like = None
        if whole and region is not None and region.kind == "move":
            like = next(
                (v for v in region.inputs if v in self.stored and not self.stored[v].copy), None
            )
        calibrator = self.choices[region].calibrator if region else self._reader_choice(var)
        self.stored[var] = Stored(var, not whole, calibrator, like)
        if like is not None and region is not None:
            self._unify(region, like)

    def _unify(self, region: Region, like: relax.Var) -> None:
        """The other parts of a concatenation share its scale too, so that it only moves bytes."""
        leader = like
        while self.stored[leader].like is not None:
            leader = self.stored[leader].like  # type: ignore[assignment]
        for part in region.inputs:
            item = self.stored.get(part)
            if item is None or item.copy or part == leader:
                continue
            root = part
            while self.stored[root].like is not None:
                root = self.stored[root].like  # type: ignore[assignment]
            if root != leader:
                found = self.stored[root]
                self.stored[root] = Stored(root, found.copy, found.calibrator, leader)

    def _reader_choice(self, var: relax.Var) -> str:
        return self.choices[self._reading_regions(var)[0]].calibrator


def operator_of(region: Region) -> str:
    """Its type as recipes name it."""
    return "product" if region.kind == "product" else region.operator
