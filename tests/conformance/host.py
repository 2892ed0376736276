"""Runs an imported model on this machine."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from compiler.frontend import ImportedModel


def run_on_host(imported: ImportedModel, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of the model for ``inputs``, in order."""
    executable = tvm.compile(imported.module, "llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(np.require(a, requirements="C")) for a in inputs))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [item.numpy() for item in results]
