"""What there is to tune: the fused functions of a model whose templates offer a choice."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import meta_schedule as ms

import schedules
from compiler.codegen import label
from compiler.codegen.compile import kernel_functions
from compiler.codegen.graph import read_graph
from compiler.codegen.work import multiply_accumulates
from compiler.target import Target
from schedules.choices import Listing, Space

_SYMBOL = "main"
MAX_BUFFERS = 12  # of a kernel, as the measuring program calls it


@dataclass(frozen=True)
class Task:
    """A function to tune.

    Args:
        key: of the workload: structural hash of the function without its name.
        label: what a person reads.
        template: the family that took it.
        func: the function as templates get it.
        space: the template's decisions, the default first.
        calls: how often the model runs it.
        macs: multiply-accumulates of one call.
        nbytes: bytes of all its arguments.
        n_inputs: leading parameters that are inputs.
    """

    key: str
    label: str
    template: str
    func: tirx.PrimFunc
    space: Space
    calls: int
    macs: int
    nbytes: int
    n_inputs: int

    @functools.cached_property
    def as_json(self) -> str:
        """The function for another process; see ``read_function``."""
        return tvm.ir.save_json(self.func)


def read_function(text: str) -> tirx.PrimFunc:
    """The function of ``Task.as_json``."""
    return tvm.ir.load_json(text)


def workload(func: tirx.PrimFunc) -> tvm.IRModule:
    """A function as MetaSchedule's module.

    Without the name, which differs by model, nor scales and zero points, which differ by
    calibration: what is best for one is best for all.
    """
    func = func.with_attr("global_symbol", _SYMBOL)
    stored = {str(param.ty.dtype) for param in func.params}
    if stored & {"int8", "uint8"}:
        func = func.with_body(tvm_ffi.structural_map(func.body, _NEUTRAL))
    return tvm.IRModule({_SYMBOL: func})


def _neutral_integer(node: tirx.IntImm) -> tirx.PrimExpr:
    """Indices are int64, sums int32."""
    return tirx.IntImm(node.ty.dtype, 0) if str(node.ty.dtype) in ("int8", "uint8") else node


def _without_shift(node: tirx.Add | tirx.Sub) -> tirx.PrimExpr:
    """By a zero point: there is none where that is 0."""
    if isinstance(node.b, tirx.FloatImm):
        return node.a
    rounded = isinstance(node.a, tirx.Cast) and isinstance(node.b, tirx.IntImm)
    return node.a if rounded else node


_NEUTRAL = [
    (tirx.FloatImm, lambda node: tirx.FloatImm(node.ty.dtype, 1.0)),
    (tirx.IntImm, _neutral_integer),
    ((tirx.Add, tirx.Sub), _without_shift),
]


def workload_key(func: tirx.PrimFunc) -> str:
    """The structural hash, which does not depend on names."""
    return str(tvm_ffi.structural_hash(workload(func)) % 2**64)


def read_workload(key: str, module: str) -> tirx.PrimFunc:
    """The function of a log's workload."""
    return ms.database.Workload.from_json([key, module]).mod[_SYMBOL]


def offered(func: tirx.PrimFunc, target: Target) -> tuple[str, Space | None]:
    """The template that takes a function, and its decisions if there is a choice."""
    listing = Listing()
    _, report = schedules.apply(func, target, listing)
    return report["template"], listing.space


def extract(module: tvm.IRModule, target: Target) -> list[Task]:
    """The tasks of a module from ``compiler.passes.optimize``, in order of first execution.

    Functions without a choice, or with more arguments than the measuring program passes, are left
    out.
    """
    graph = read_graph(module)
    counts: dict[str, int] = {}
    found: dict[str, tuple[str, tirx.PrimFunc]] = {}
    keys = {}
    for name, func in kernel_functions(graph, module).items():
        keys[name] = workload_key(func)
        found.setdefault(keys[name], (name, func))
    for call in graph.calls:
        counts[keys[call.function]] = counts.get(keys[call.function], 0) + 1
    tasks = []
    for key, (name, func) in found.items():
        template, space = offered(func, target)
        if space is None or len(space.rows) < 2:
            continue
        call = next(c for c in graph.calls if c.function == name)
        if len(func.params) + 2 > MAX_BUFFERS or len(call.outputs) != 1:
            continue
        tasks.append(
            Task(
                key,
                label(name),
                template,
                func,
                space,
                counts[key],
                multiply_accumulates(func),
                sum(graph.buffers[b].nbytes for b in {*call.inputs, *call.outputs}),
                len(call.inputs),
            )
        )
    return tasks


def workload_as_json(func: tirx.PrimFunc) -> list[Any]:
    """MetaSchedule's [hash, base64 of the module]."""
    return [str(x) for x in ms.database.Workload(workload(func)).as_json()]
