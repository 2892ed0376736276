"""Small functions in LLVM IR that kernels call, for instructions on types that TVM cannot name.

They are compiled into the kernels that call them and are always inlined. TVM cannot import what
declares LLVM's intrinsics, so a definition names one as assembly without side effects, which the
optimiser takes for a function of its operands, and the optimised IR gets its call instead:

    before:  %y = call <4 x float> asm "@llvm.aarch64.neon.bfmmla", "=w,w,w,w"(<4 x float> %s, ...)
    after:   %y = call <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float> %s, ...)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

PREFIX = "edgecc_llvm_"
_NAMED = re.compile(r'call (\S+|<[^>]*>) asm "(@llvm\.[\w.]+)", "[^"]*"\(([^)]*)\)')
_defined: dict[str, str] = {}
_defining = threading.Lock()  # kernels are scheduled in threads


def call(dtype: str, name: str, text: str, *args: tirx.PrimExpr) -> tirx.PrimExpr:
    """A call of a function without side effects.

    Args:
        dtype: of the result.
        name: of the function: "@NAME" in ``text``.
        text: its definition as LLVM IR.
    """
    with _defining:
        _defined[PREFIX + name] = text.replace("@NAME", f"@{PREFIX}{name}")
    return tirx.call_pure_extern(dtype, PREFIX + name, *args)


def with_definitions(functions: Mapping[str, tirx.PrimFunc]) -> dict[str, tirx.PrimFunc]:
    """The functions of a module; the first that calls one of ours brings its definition."""
    defined: set[str] = set()
    found = {}
    for name, func in functions.items():
        wanted = sorted(_called(func) & _defined.keys() - defined)
        body = func.body
        for wants in wanted:
            text = tvm.ir.StringImm(definition(wants))
            body = tirx.AttrStmt("default", "pragma_import_llvm", text, body)
        found[name] = func.with_body(body) if wanted else func
        defined.update(wanted)
    return found


def definition(name: str) -> str:
    """LLVM IR of one of our functions, by its name there."""
    return _defined[name]


def with_intrinsics(text: str) -> str:
    """Printed LLVM IR that calls the intrinsics which definitions name."""
    declared = {}

    def call_intrinsic(found: re.Match[str]) -> str:
        result, name, arguments = found.groups()
        types = re.findall(r"(?:^|, )(<[^>]*>|\w+) ", arguments)
        declared[name] = f"declare {result} {name}({', '.join(types)})"
        return f"call {result} {name}({arguments})"

    text = _NAMED.sub(call_intrinsic, text)
    return "\n".join([text, *declared.values(), ""]) if declared else text


def _called(func: tirx.PrimFunc) -> set[str]:
    """Names of external functions."""
    names: set[str] = set()

    def visit(call: tvm.ir.Call, mutator: tvm_ffi.StructuralMutator) -> Any:
        if getattr(call.op, "name", "") == "tirx.call_pure_extern":
            names.add(str(call.args[0].value))
        return mutator.default_mutate(call)

    tvm_ffi.structural_mutate(func.body, [(tvm.ir.Call, visit)])
    return names
