"""Does LLVM know the CPU and the features that a target names?

LLVM itself only warns and goes on with a generic CPU; a triple that it can't take ends the process.
"""

from __future__ import annotations

import difflib

from compiler.errors import EdgeccError
from compiler.target import Target


def check_llvm(target: Target) -> None:
    """Refuses a target that LLVM would silently take for another.

    Raises:
        EdgeccError: unknown triple, CPU or feature.
    """
    import tvm
    from tvm.target import codegen

    if not codegen.llvm_is_valid_cpu(target.cpu, target.triple):
        generic = {"aarch64": "generic", "arm": "generic", "riscv64": "generic-rv64"}
        if not codegen.llvm_is_valid_cpu(generic.get(target.arch, "x86-64"), target.triple):
            raise EdgeccError(
                f"target {target.name}: triple: LLVM does not know '{target.triple}'",
                "for example aarch64-linux-gnu",
            )
        config = {"kind": "llvm", "mtriple": target.triple}
        known = [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(tvm.target.Target(config))]
        close = difflib.get_close_matches(target.cpu, known, n=3)
        raise EdgeccError(
            f"target {target.name}: cpu: LLVM does not know '{target.cpu}' for {target.triple}",
            f"near it are: {', '.join(close)}" if close else f"known: {', '.join(known)}",
        )
    names = [feature[1:] for feature in target.features]
    if not names:
        return
    everything = {**target.tvm(), "mattr": [f"+{name}" for name in names]}
    found = codegen.llvm_get_cpu_features(tvm.target.Target(everything))
    unknown = [name for name in names if name not in found]
    if unknown:
        raise EdgeccError(
            f"target {target.name}: features: LLVM does not know '{unknown[0]}' "
            f"for {target.triple}",
            "features are named as clang's -Xclang -target-feature names them",
        )
