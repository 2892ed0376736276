"""Runs the float model over data and shows what its tensors hold.

The model is compiled for this machine with all tensors of interest as outputs; samples stream
through it, so that memory is bounded by one sample's tensors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from compiler.codegen import compile_module
from compiler.package import write_package
from compiler.passes.packed_values import shape_of
from compiler.passes.pipeline import lower
from compiler.passes.rewriter import Rewriter
from compiler.program import TensorInfo
from compiler.runtime.loader import Model
from compiler.target import load_target

Observer = Callable[[int, dict[relax.Var, np.ndarray]], None]


class _Outputs(Rewriter):
    """Replaces what ``main`` returns."""

    def __init__(self, wanted: Sequence[relax.Var]) -> None:
        super().__init__()
        self.wanted = wanted

    def result(self, main: relax.Function) -> relax.Expr:
        values = [self.plain(var) for var in self.wanted]
        return values[0] if len(values) == 1 else relax.Tuple(values)


def observe(
    module: tvm.IRModule,
    inputs: tuple[TensorInfo, ...],
    tensors: Sequence[relax.Var],
    samples: Iterable[Mapping[str, np.ndarray]],
    watch: Observer,
) -> None:
    """Calls ``watch(index, values by variable)`` for each sample.

    Args:
        module: simplified; ``tensors`` are variables of its ``main``, parameters among them.
        inputs: of the model, in the order of main's parameters.
    """
    params = dict(zip(module["main"].params, inputs, strict=True))
    computed = [var for var in dict.fromkeys(tensors) if var not in params]
    given = {var: params[var].name for var in tensors if var in params}
    if not computed:
        for index, sample in enumerate(samples):
            watch(index, {var: sample[name] for var, name in given.items()})
        return
    names = [f"t{i}" for i in range(len(computed))]
    with tempfile.TemporaryDirectory(prefix="edgecc-observe-") as folder:
        package = _compile(module, inputs, computed, names, Path(folder) / "model")
        with Model(package) as model:
            for index, sample in enumerate(samples):
                outputs = model.run(sample)
                values = {var: outputs[name] for var, name in zip(computed, names, strict=True)}
                values |= {var: sample[name] for var, name in given.items()}
                watch(index, values)


def _compile(
    module: tvm.IRModule,
    inputs: tuple[TensorInfo, ...],
    tensors: Sequence[relax.Var],
    names: Sequence[str],
    folder: Path,
) -> Path:
    target = load_target("host")
    outputs = tuple(
        TensorInfo(name, str(var.ty.dtype), shape_of(var))
        for name, var in zip(names, tensors, strict=True)
    )
    lowered = lower(_Outputs(tensors).rewrite(module), target, exact=True)
    return write_package(
        compile_module(lowered, target, "observed", inputs, outputs), target, folder
    )
