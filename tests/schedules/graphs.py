"""Small Relax graphs as the fused PrimFuncs that schedules get, and their execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax, tirx

import schedules
from compiler.target import Target
from tests import kernels


def fused_functions(
    build: Callable[..., relax.Expr], *inputs: np.ndarray
) -> tuple[tvm.IRModule, list[str]]:
    """Legalise and fuse ``build(*inputs)``; returns the module and its PrimFuncs in call order."""
    builder = relax.BlockBuilder()
    variables = [
        relax.Var(f"x{i}", relax.TensorType(x.shape, str(x.dtype))) for i, x in enumerate(inputs)
    ]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*variables)))
        builder.emit_func_output(result)
    module = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )(builder.get())
    return module, [c.value.args[0].name_hint for c in _bindings(module)]


def _bindings(module: tvm.IRModule) -> list[relax.VarBinding]:
    blocks = module["main"].body.blocks
    bindings = [b for block in blocks for b in block.bindings]
    return [b for b in bindings if isinstance(b.value, tvm.ir.Call)]


def evaluate(
    build: Callable[..., relax.Expr],
    inputs: Sequence[np.ndarray],
    target: Target | None = None,
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Schedule, compile and run every function of a graph; returns the result and the reports."""
    target = target or kernels.host()
    module, _ = fused_functions(build, *inputs)
    values = {p.name: x for p, x in zip(module["main"].params, inputs, strict=True)}
    reports = []
    result = None
    for binding in _bindings(module):
        function, arguments = binding.value.args[0], binding.value.args[1]
        scheduled, report = schedules.apply(module[function], target)
        arrays = [_value(argument, values) for argument in arguments]
        (result,) = kernels.run(scheduled, arrays, target)
        values[binding.var.name] = result
        reports.append(report)
    assert result is not None
    return result, reports


def _value(argument: relax.Expr, values: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(argument, tvm.ir.GenericConst):
        return argument.value.numpy()
    return values[argument.name]


def scheduled_function(
    build: Callable[..., relax.Expr], target: Target, *inputs: np.ndarray
) -> tuple[tirx.PrimFunc, dict[str, str]]:
    """The only fused function of a graph, scheduled for a target."""
    module, names = fused_functions(build, *inputs)
    assert len(names) == 1
    return schedules.apply(module[names[0]], target)
