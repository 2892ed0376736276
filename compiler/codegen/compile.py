"""Fused Relax module -> Program: schedule, lower, plan memory, lay out weights."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

import schedules
from compiler.codegen import work
from compiler.codegen.arena import plan_arena
from compiler.codegen.graph import Buffer, Call, Graph, read_graph
from compiler.codegen.lifetimes import Needs, lifetimes
from compiler.codegen.lower import LoweredFunction, lower, object_code
from compiler.program import ALIGNMENT, KernelCall, Location, Program, Space, TensorInfo
from compiler.target import Target
from schedules.choices import Chooser, TakeValues, UnknownDecisionError, Values, take_default
from schedules.constants import CONSTANT_INPUTS, Rearrangement, rearrangements

Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
# Fixed, and not a share of the cores: the same model gives the same bytes everywhere.
KERNELS_PER_OBJECT = 8
# In the receipt of an operator whose record is of an earlier version of its template.
OUTDATED = "outdated"


@dataclass(frozen=True)
class Kernel:
    """A scheduled and lowered PrimFunc with what is known about it."""

    symbol: str
    lowered: LoweredFunction
    macs: int
    in_place: tuple[int, ...]
    rearranged: dict[int, Rearrangement]  # constants, by position of the argument
    report: dict[str, str]


@dataclass(frozen=True)
class Decided:
    """A decision from a tuning log.

    Args:
        values: as ``schedules.choices`` lists them.
        origin: for the receipt.
        versions: of the templates when it was measured.
    """

    values: Values
    origin: str
    versions: Mapping[str, int]


Decisions = Callable[[tirx.PrimFunc], "Decided | None"]


@dataclass(frozen=True)
class KernelCache:
    """What was compiled for one target, for modules that have most kernels in common.

    Args:
        kernels: by what they compute, whatever their names.
        objects: of one kernel each, by symbol.
    """

    kernels: dict[tvm_ffi.StructuralKey, Kernel] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)


def compile_module(
    module: tvm.IRModule,
    target: Target,
    name: str,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    progress: Progress = lambda stage, done, total: None,
    decisions: Decisions = lambda func: None,
    cache: KernelCache | None = None,
) -> Program:
    """Compile the result of ``compiler.passes.optimize`` for the target.

    Args:
        module: ``main`` of call_tir over PrimFuncs, all shapes static.
        name: C identifier of the model.
        inputs, outputs: descriptions in the order of main's parameters and results.
        progress: called with (stage, done, total) as work goes on.
        decisions: what to take instead of a template's default.
        cache: of kernels with their defaults: what is there is taken, what isn't is added.
    """
    graph = read_graph(module)
    _copy_outputs_that_are_not_results(graph, module)
    if cache is None:
        kernels = _compile_kernels(graph, module, target, progress, decisions)
    else:
        kernels = _cached_kernels(graph, module, target, progress, cache)
    _rearrange_constants(graph, kernels)
    bound = {b: i for i, b in enumerate(graph.outputs)}
    needs = {name: Needs(k.in_place, k.lowered.workspaces) for name, k in kernels.items()}
    intervals, workspaces = lifetimes(graph, needs, bound)
    arena = plan_arena(intervals, max((k.lowered.scratch for k in kernels.values()), default=0))
    offsets = {a.name: a.offset for a in arena.allocations}
    weights, weight_offsets = _lay_out_weights(graph)

    def locate(buffer: int) -> Location:
        if buffer in bound:
            return Location(Space.OUTPUT, bound[buffer])
        info = graph.buffers[buffer]
        if info.input_index is not None:
            return Location(Space.INPUT, info.input_index)
        if info.constant is not None:
            return Location(Space.WEIGHTS, weight_offsets[buffer])
        return Location(Space.ARENA, offsets[f"t{buffer}"])

    calls = []
    for index, call in enumerate(graph.calls):
        kernel = kernels[call.function]
        arguments = [locate(b) for b in (*call.inputs, *call.outputs)]
        arguments += [Location(Space.ARENA, offsets[w]) for w in workspaces[index]]
        nbytes = sum(graph.buffers[b].nbytes for b in {*call.inputs, *call.outputs})
        calls.append(
            KernelCall(
                kernel.symbol,
                tuple(arguments),
                label(call.function),
                macs=kernel.macs,
                nbytes=nbytes,
                report=kernel.report,
            )
        )
    if cache is None:
        objects = _compile_objects(list(kernels.values()), target, progress)
    else:
        objects = _cached_objects(kernels.values(), target, progress, cache)
    return Program(name, inputs, outputs, tuple(calls), arena, weights, objects)


def label(function: str) -> str:
    """What people read for a PrimFunc's name: fused_conv2d5_add3_relu3 -> conv2d_add_relu."""
    return "_".join(part.rstrip("0123456789") or part for part in _operators(function))


def _operators(function: str) -> list[str]:
    return function.removeprefix("fused_").split("_")


def compile_kernel(
    func: tirx.PrimFunc, symbol: str, target: Target, choose: Chooser = take_default
) -> Kernel:
    """Schedule and lower one of ``kernel_functions``.

    Args:
        symbol: the kernel's C name.
        choose: takes one of the decisions of the function's template.

    Raises:
        UnknownDecisionError: the template does not offer what ``choose`` wants.
    """
    macs, in_place = work.multiply_accumulates(func), work.in_place_inputs(func)
    scheduled, report = schedules.apply(func, target, choose)
    report = {"executed_dtype": work.executed_dtype(func), **report}
    if in_place:
        # The output may take over an input's memory, so the pointers may be equal.
        scheduled = scheduled.with_attr("tirx.noalias", False)
    lowered = lower({symbol: scheduled}, target)[symbol]
    return Kernel(symbol, lowered, macs, tuple(in_place), rearrangements(scheduled), report)


def kernel_functions(graph: Graph, module: tvm.IRModule) -> dict[str, tirx.PrimFunc]:
    """The functions that a graph calls, with which of their arguments are constants."""
    names = dict.fromkeys(call.function for call in graph.calls)
    return {
        name: module[name].with_attr(CONSTANT_INPUTS, _constant_inputs(graph, name))
        for name in names
    }


def _compile_kernels(
    graph: Graph,
    module: tvm.IRModule,
    target: Target,
    progress: Progress,
    decisions: Decisions,
) -> dict[str, Kernel]:
    functions = list(kernel_functions(graph, module).items())

    def compile_named(item: tuple[str, tirx.PrimFunc]) -> Kernel:
        name, func = item
        symbol = "op_" + re.sub(r"\W", "_", name)
        decided = decisions(func)
        if decided is None:
            return compile_kernel(func, symbol, target)
        return _compile_decided(func, symbol, target, decided)

    kernels = _in_threads(compile_named, functions, "kernels", progress)
    return dict(zip((name for name, _ in functions), kernels, strict=True))


def _cached_kernels(
    graph: Graph, module: tvm.IRModule, target: Target, progress: Progress, cache: KernelCache
) -> dict[str, Kernel]:
    """Equal functions become one kernel."""
    keys = {
        # its stub asks for the hash, too
        name: tvm_ffi.StructuralKey(func.with_attr("global_symbol", "main"))  # type: ignore[call-arg]
        for name, func in kernel_functions(graph, module).items()
    }
    missing = [key for key in dict.fromkeys(keys.values()) if key not in cache.kernels]
    symbols = [f"op_{len(cache.kernels) + i}" for i in range(len(missing))]

    def compile_missing(item: tuple[tvm_ffi.StructuralKey, str]) -> Kernel:
        return compile_kernel(item[0].key, item[1], target)

    todo = list(zip(missing, symbols, strict=True))
    made = _in_threads(compile_missing, todo, "kernels", progress)
    cache.kernels.update(zip(missing, made, strict=True))
    return {name: cache.kernels[key] for name, key in keys.items()}


def _cached_objects(
    kernels: Iterable[Kernel], target: Target, progress: Progress, cache: KernelCache
) -> tuple[bytes, ...]:
    unique = {kernel.symbol: kernel for kernel in kernels}
    missing = [kernel for symbol, kernel in unique.items() if symbol not in cache.objects]

    def compile_missing(kernel: Kernel) -> bytes:
        return object_code({kernel.symbol: kernel.lowered}, target)

    made = _in_threads(compile_missing, missing, "objects", progress)
    cache.objects.update(zip((kernel.symbol for kernel in missing), made, strict=True))
    return tuple(cache.objects[symbol] for symbol in unique)


def _compile_decided(func: tirx.PrimFunc, symbol: str, target: Target, decided: Decided) -> Kernel:
    """With the default where the template is no longer the one whose decision it was."""
    try:
        kernel = compile_kernel(func, symbol, target, TakeValues(decided.values))
        template = kernel.report["template"]
        if decided.versions.get(template) == schedules.registry.VERSIONS.get(template):
            kernel.report["tuned"] = decided.origin
            return kernel
    except UnknownDecisionError:
        pass
    kernel = compile_kernel(func, symbol, target)
    kernel.report["tuned"] = OUTDATED
    return kernel


def _constant_inputs(graph: Graph, function: str) -> list[int]:
    """Positions of the arguments that are constants in every call of a function."""
    calls = [call.inputs for call in graph.calls if call.function == function]
    return [
        position
        for position, buffers in enumerate(zip(*calls, strict=True))
        if all(graph.buffers[b].constant is not None for b in buffers)
    ]


def _rearrange_constants(graph: Graph, kernels: dict[str, Kernel]) -> None:
    """Give calls their constants in the order that the schedule reads."""
    known: dict[tuple[int, Rearrangement], int] = {}
    for call in graph.calls:
        for position, wanted in kernels[call.function].rearranged.items():
            key = (call.inputs[position], wanted)
            if key not in known:
                buffer = graph.buffers[call.inputs[position]]
                assert buffer.constant is not None
                value = wanted.apply(buffer.constant)
                graph.buffers.append(Buffer(value.nbytes, buffer.dtype, constant=value))
                known[key] = len(graph.buffers) - 1
            call.inputs[position] = known[key]


def _compile_objects(
    kernels: list[Kernel], target: Target, progress: Progress
) -> tuple[bytes, ...]:
    """Object files of a fixed number of kernels each, so that the cores share the work."""
    groups = [
        kernels[i : i + KERNELS_PER_OBJECT] for i in range(0, len(kernels), KERNELS_PER_OBJECT)
    ]

    def compile_group(group: list[Kernel]) -> bytes:
        return object_code({k.symbol: k.lowered for k in group}, target)

    return tuple(_in_threads(compile_group, groups, "objects", progress))


def _in_threads(
    function: Callable[[Item], Result], items: list[Item], stage: str, progress: Progress
) -> list[Result]:
    """Map over items on all cores: TVM and LLVM work outside Python's lock."""
    results: list[Result] = []
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, result in enumerate(executor.map(function, items)):
            progress(stage, done, len(items))
            results.append(result)
    finally:
        executor.shutdown(cancel_futures=True)
    progress(stage, len(items), len(items))
    return results


def _copy_outputs_that_are_not_results(graph: Graph, module: tvm.IRModule) -> None:
    """Copy outputs that are an input, a constant or a duplicate into buffers of their own."""
    seen: set[int] = set()
    for position, index in enumerate(graph.outputs):
        buffer = graph.buffers[index]
        if buffer.producer is not None and index not in seen:
            seen.add(index)
            continue
        function = f"copy{len(graph.calls)}"
        module[function] = _copy_function(buffer)
        copy = Buffer(buffer.nbytes, buffer.dtype, producer=len(graph.calls))
        graph.views.add(len(graph.buffers), copy.nbytes)
        graph.buffers.append(copy)
        graph.calls.append(Call(function, [index], [len(graph.buffers) - 1]))
        graph.outputs[position] = len(graph.buffers) - 1
        seen.add(graph.outputs[position])


def _copy_function(buffer: Buffer) -> tirx.PrimFunc:
    count = buffer.nbytes // np.dtype(buffer.dtype).itemsize
    source = tvm.te.placeholder((count,), buffer.dtype, name="source")
    copy = tvm.te.compute((count,), lambda i: source[i], name="copy")
    return tvm.te.create_prim_func([source, copy])


def _lay_out_weights(graph: Graph) -> tuple[bytes, dict[int, int]]:
    """All used constants one after the other, each aligned; returns the bytes and the offsets."""
    used = dict.fromkeys(b for call in graph.calls for b in call.inputs)
    data = bytearray()
    offsets = {}
    for buffer in used:
        constant = graph.buffers[buffer].constant
        if constant is None:
            continue
        data += bytes(-len(data) % ALIGNMENT)
        offsets[buffer] = len(data)
        data += np.ascontiguousarray(constant).tobytes()
    return bytes(data), offsets
