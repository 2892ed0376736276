"""Which operators become one kernel, as far as quantisation must know: tensors between regions are
stored, those inside are not.

A convolution or product takes in the element-wise operators behind it (bias, activation, residual
sum) as long as all paths from it meet again: post-dominators decide, as they do in ``FuseOps``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from compiler.frontend.axis_ops import AxisOp
from compiler.frontend.graph import node_name
from compiler.passes.packed_values import constant_of, shape_of

CONVOLUTIONS = {
    "relax.nn.conv1d": 0,
    "relax.nn.conv2d": 0,
    "relax.nn.conv3d": 0,
    "relax.nn.conv1d_transpose": 1,
    "relax.nn.conv2d_transpose": 1,
    "relax.nn.conv3d_transpose": 1,
}
"""Each with the axis of its weights that belongs to the output channels."""

# fmt: off
_POINTWISE = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "negative", "abs", "clip",
    "sigmoid", "tanh", "erf", "exp", "log", "power", "sqrt", "rsqrt", "square", "floor",
    "round", "nn.relu", "nn.leakyrelu", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.prelu",
    "where", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal",
)
# fmt: on
POINTWISE = {f"relax.{name}" for name in _POINTWISE}
# Steps of a node that became several operators; the last of them carries the node's name.
_GENERATED = re.compile(r"(lv|gv)\d*")
# fmt: off
_MOVES = (
    "reshape", "expand_dims", "squeeze", "flatten", "permute_dims", "strided_slice", "concat",
    "max", "nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d",
)
# fmt: on
MOVES = {f"relax.{name}" for name in _MOVES}
AVERAGES = {
    f"relax.nn.{name}{rank}d" for name in ("avg_pool", "adaptive_avg_pool") for rank in (1, 2, 3)
}


@dataclass(eq=False)
class Region:
    """Operators that are computed together.

    Args:
        kind: "convolution", "matmul" (constant right operand), "product" (of two computed
            operands), "pointwise", "move" (values stay what they are), "average" or "float".
        operator: of the first member, as recipes name it: "conv2d", "matmul", "add", ...
        members: results of its operators in order; the last is what it hands over.
        inputs: tensors it reads that are computed outside, in order.
    """

    kind: str
    operator: str
    members: list[relax.Var]
    inputs: list[relax.Var] = field(default_factory=list)

    @property
    def anchor(self) -> relax.Var:
        return self.members[0]

    @property
    def end(self) -> relax.Var:
        return self.members[-1]

    @property
    def names(self) -> list[str]:
        """ONNX nodes of its operators, as the importer writes them: letters, digits and _.

        The variable that the first was given where none has a name of its own.
        """
        found = [node_name(member) for member in self.members]
        return [n for n in found if not _GENERATED.fullmatch(n)] or [self.anchor.name]

    @property
    def name(self) -> str:
        """Of its first operator."""
        return self.names[0]


@dataclass(frozen=True, eq=False)
class Function:
    """What a tensor is of another, element by element.

    Args:
        compute: the same of float64 arrays of any shape.
    """

    source: relax.Var
    compute: Callable[[np.ndarray], np.ndarray]


class Graph:
    """``main`` of a simplified module as regions in order of execution.

    ``functions`` are those that ``functions.split_functions`` made regions of, by their results.
    """

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        main = module["main"]
        self.params: list[relax.Var] = list(main.params)
        self.values: dict[relax.Var, relax.Expr] = {}
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = binding.value
        self.outputs = [self.origin(v) for v in self._operands(main.body.body)]
        self.results = set(self.outputs)
        self.operands = {var: self._operands(value) for var, value in self.values.items()}
        self.readers: dict[relax.Var, list[relax.Var]] = {}
        for var, operands in self.operands.items():
            if self.is_tensor(var):
                for operand in dict.fromkeys(operands):
                    self.readers.setdefault(operand, []).append(var)
        self.order = {var: i for i, var in enumerate(self.values)}
        self.region_of: dict[relax.Var, Region] = {}
        self.functions: dict[relax.Var, Function] = {}
        self._post_dominators = self._find_post_dominators()
        self.regions = self._find_regions()

    def is_tensor(self, var: relax.Var) -> bool:
        """Whether a binding computes a tensor: no tuple, and no other name of a variable."""
        return not isinstance(self.values[var], (relax.Var, relax.Tuple))

    def origin(self, var: relax.Var) -> relax.Var:
        """The variable behind other names of it."""
        while isinstance(self.values.get(var), relax.Var):
            var = self.values[var]
        return var

    def op(self, var: relax.Var) -> str:
        value = self.values.get(var)
        return getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""

    def _operands(self, expr: relax.Expr) -> list[relax.Var]:
        """Variables that an expression reads, tuples opened."""
        if isinstance(expr, relax.Var):
            value = self.values.get(expr)
            if isinstance(value, (relax.Var, relax.Tuple)):
                return self._operands(value)
            return [expr]
        if isinstance(expr, relax.Tuple):
            return [var for field_ in expr.fields for var in self._operands(field_)]
        if isinstance(expr, relax.Call):
            return [var for argument in expr.args for var in self._operands(argument)]
        if isinstance(expr, relax.TupleGetItem):
            return self._operands(expr.tuple_value)
        return []

    def _find_post_dominators(self) -> dict[relax.Var, relax.Var | None]:
        """The nearest later tensor through which everything computed from a tensor passes.

        Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm", 2001; one pass backwards
        is enough without loops. None where paths end apart.
        """
        found: dict[relax.Var, relax.Var | None] = {}
        depth: dict[relax.Var | None, int] = {None: 0}
        for var in [*reversed(self.values), *self.params]:
            meeting: relax.Var | None = None
            for index, reader in enumerate(self.readers.get(var, ())):
                other: relax.Var | None = reader
                if index:
                    while meeting != other:
                        if depth[meeting] >= depth[other]:
                            meeting = found[meeting] if meeting is not None else None
                        else:
                            other = found[other] if other is not None else None
                else:
                    meeting = other
            found[var] = None if var in self.results else meeting
            depth[var] = depth[found[var]] + 1
        return found

    def _find_regions(self) -> list[Region]:
        tensors = [var for var in self.values if self.is_tensor(var)]
        regions = []
        # The later of two convolutions whose results meet takes the sum: the earlier one's
        # result has to wait for it in memory in any case.
        for var in reversed(tensors):
            kind = self._anchor_kind(var)
            if kind:
                regions.append(self._grow(kind, var))
        for var in tensors:
            if var not in self.region_of:
                regions.append(self._grow(self._kind(var), var))
        regions.sort(key=lambda region: self.order[region.end])
        for region in regions:
            self._read_inputs(region)
        return self._merge(regions)

    def _grow(self, kind: str, start: relax.Var) -> Region:
        region = Region(kind, self._operator(start), [start])
        self.region_of[start] = region
        if kind not in ("convolution", "matmul", "product", "pointwise"):
            return region
        claimed: set[relax.Var] = {start}
        end = start
        while True:
            last = self._post_dominators[end]
            if last is None:
                break
            between = self._between(end, last)
            if between is None or any(v in self.region_of for v in between):
                break
            if any(shape_of(v) != shape_of(start) for v in between):
                break
            claimed |= between
            end = last
            if str(end.ty.dtype) == "float32":
                for var in sorted(claimed, key=self.order.__getitem__):
                    if var not in self.region_of:
                        self.region_of[var] = region
                        region.members.append(var)
        return region

    def _between(self, start: relax.Var, end: relax.Var) -> set[relax.Var] | None:
        """Everything from ``start`` (left out) to ``end``; None where it is not all pointwise."""
        found: set[relax.Var] = set()
        todo = list(self.readers.get(start, ()))
        while todo:
            var = todo.pop()
            if var in found:
                continue
            if not self._is_pointwise(var):
                return None
            found.add(var)
            if var != end:
                todo += self.readers.get(var, ())
        return found

    def _merge(self, regions: list[Region]) -> list[Region]:
        """Pointwise regions that only one other of the same shape reads become part of it."""
        kept = []
        for region in reversed(regions):
            readers = {self.region_of[r] for r in self.readers.get(region.end, ())}
            if region.kind == "pointwise" and len(readers) == 1 and region.end not in self.results:
                (other,) = readers
                same = shape_of(region.end) == shape_of(other.end)
                grows = other.kind in ("convolution", "matmul", "product", "pointwise")
                direct = other.kind != "pointwise" and region.end in self.operands[other.anchor]
                if same and grows and not direct:
                    first = other.anchor
                    members = sorted({*region.members, *other.members}, key=self.order.__getitem__)
                    if other.kind != "pointwise":
                        members.remove(first)
                        members.insert(0, first)
                    other.members = members
                    for var in region.members:
                        self.region_of[var] = other
                    self._read_inputs(other)
                    continue
            kept.append(region)
        return kept[::-1]

    def cut(self, region: Region, count: int) -> Region:
        """Leaves a region its first members; returns one of the others, element by element."""
        region.members, members = region.members[:count], region.members[count:]
        other = Region("pointwise", self._operator(members[0]), members)
        self.region_of.update(dict.fromkeys(members, other))
        self._read_inputs(region)
        self._read_inputs(other)
        return other

    def _read_inputs(self, region: Region) -> None:
        inside = set(region.members)
        read = [v for member in region.members for v in self.operands[member] if v not in inside]
        region.inputs = list(dict.fromkeys(read))

    def _operator(self, var: relax.Var) -> str:
        op = self.op(var)
        if op == "relax.call_tir":
            return self.values[var].args[0].name_hint.rstrip("0123456789")
        return op.removeprefix("relax.").removeprefix("nn.") or "value"

    def _anchor_kind(self, var: relax.Var) -> str:
        """Of a convolution or product that could be computed in integers, else ""."""
        op, value = self.op(var), self.values[var]
        if str(getattr(var.ty, "dtype", "")) != "float32":
            return ""
        if op in CONVOLUTIONS:
            layouts = value.attrs.data_layout[:2], value.attrs.kernel_layout[:2]
            fits = layouts[0] == "NC" and layouts[1] == ("IO" if CONVOLUTIONS[op] else "OI")
            return "convolution" if fits and constant_of(value.args[1]) is not None else ""
        if op == "relax.matmul":
            right = constant_of(value.args[1])
            if right is not None:
                return "matmul" if right.ndim == 2 and self.operands[var] else ""
            return "product" if constant_of(value.args[0]) is None else ""
        return ""

    def _kind(self, var: relax.Var) -> str:
        op, value = self.op(var), self.values[var]
        dtype = str(getattr(var.ty, "dtype", ""))
        if dtype == "float32" and self._is_pointwise(var):
            return "pointwise"
        if dtype != "float32" or not self.operands[var]:
            return "float"
        if op == "relax.call_tir":
            function = self.module[value.args[0]]
            found = AxisOp.of(function.attrs)
            if found is None:
                return "float"
            return "average" if found.function == "interpolated" else "move"
        if op == "relax.mean":
            return "average" if self._is_global_average(var) else "float"
        if op == "relax.max" and not _over_space(value):
            return "float"
        if op in MOVES:
            return "move"
        return "average" if op in AVERAGES else "float"

    def _is_global_average(self, var: relax.Var) -> bool:
        """Over a picture, and read by convolutions and products alone.

        Anything else may be the mean of a normalisation, whose error shifts whole channels.
        """
        if not _over_space(self.values[var]):
            return False
        todo, final = [var], list[relax.Var]()
        while todo:
            readers = self.readers.get(todo.pop(), [])
            for reader in readers:
                (todo if self.op(reader) in MOVES else final).append(reader)
        return bool(final) and all(self._anchor_kind(v) in ("convolution", "matmul") for v in final)

    def _is_pointwise(self, var: relax.Var) -> bool:
        return self.op(var) in POINTWISE and str(var.ty.dtype) in ("float32", "bool")


def _over_space(call: relax.Call) -> bool:
    rank = len(shape_of(call.args[0]))
    axes = call.attrs.axis
    chosen = {int(a) % rank for a in axes} if axes is not None else set()
    return rank >= 3 and chosen == set(range(2, rank))


def weights_of(graph: Graph, region: Region) -> tuple[np.ndarray, int]:
    """(weights, axis of their output channels) of a convolution or product."""
    call = graph.values[region.anchor]
    weights = constant_of(call.args[1])
    assert weights is not None, f"{region.name} has no constant weights"
    return weights, CONVOLUTIONS.get(graph.op(region.anchor), 1)
