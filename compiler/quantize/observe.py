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

from compiler.codegen import KernelCache, compile_module
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


class ObservedModel:
    """A float model that shows some of its tensors.

    Args:
        module: simplified; ``tensors`` are variables of its ``main``, parameters among them.
        inputs: of the model, in the order of main's parameters.
        cache: of kernels for this machine.
    """

    def __init__(
        self,
        module: tvm.IRModule,
        inputs: tuple[TensorInfo, ...],
        tensors: Iterable[relax.Var],
        cache: KernelCache | None = None,
    ) -> None:
        params = dict(zip(module["main"].params, inputs, strict=True))
        unique = list(dict.fromkeys(tensors))
        computed = [var for var in unique if var not in params]
        self._given = {var: params[var].name for var in unique if var in params}
        self.shown = frozenset(unique)
        self._names = {var: f"t{i}" for i, var in enumerate(computed)}
        self._folder = tempfile.TemporaryDirectory(prefix="edgecc-observe-")
        self._model: Model | None = None
        if computed:
            try:
                path = Path(self._folder.name) / "model"
                self._model = _compile(module, inputs, self._names, path, cache)
            except BaseException:
                self._folder.cleanup()
                raise

    def walk(self, samples: Iterable[Mapping[str, np.ndarray]], watch: Observer) -> None:
        """Calls ``watch(index, values by variable)`` for each sample."""
        for index, sample in enumerate(samples):
            watch(index, self.show(sample))

    def show(self, sample: Mapping[str, np.ndarray]) -> dict[relax.Var, np.ndarray]:
        """What the tensors hold for one sample."""
        values = {var: sample[name] for var, name in self._given.items()}
        if self._model is not None:
            outputs = self._model.run(sample)
            values |= {var: outputs[name] for var, name in self._names.items()}
        return values

    def __enter__(self) -> ObservedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        self._folder.cleanup()


def _compile(
    module: tvm.IRModule,
    inputs: tuple[TensorInfo, ...],
    names: Mapping[relax.Var, str],
    folder: Path,
    cache: KernelCache | None,
) -> Model:
    outputs = tuple(
        TensorInfo(name, str(var.ty.dtype), shape_of(var)) for var, name in names.items()
    )
    return build_for_host(_Outputs(list(names)).rewrite(module), inputs, outputs, folder, cache)


def build_for_host(
    module: tvm.IRModule,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    folder: Path,
    cache: KernelCache | None = None,
) -> Model:
    """A simplified module as a model that runs in this process; ``folder`` is made."""
    target = load_target("host")
    lowered = lower(module, target, exact=True)
    program = compile_module(lowered, target, "observed", inputs, outputs, cache=cache)
    return Model(write_package(program, target, folder))
