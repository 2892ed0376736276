"""Lower scheduled PrimFuncs to object code with a plain C calling convention.

Each function becomes ``int32_t name(void *in0, ..., void *out0, void *workspace0, ...)``: no packed
arguments, no type checks at run time, no libtvm. Pointers need the alignment of their element.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from compiler.codegen.bfloat16 import convert_bfloat16
from compiler.codegen.extrema import use_ieee_extrema
from compiler.codegen.function_attributes import VSCALE_BITS, with_attributes
from compiler.codegen.index_casts import narrow_index_casts
from compiler.codegen.llvm_functions import with_definitions, with_intrinsics
from compiler.codegen.load_groups import group_loads
from compiler.codegen.long_products import long_products
from compiler.codegen.narrow import narrow
from compiler.codegen.nearest import use_nearest
from compiler.codegen.partition_hints import renew_partition_hints
from compiler.codegen.strided_loads import shuffle_strided_loads
from compiler.codegen.table_lookups import use_table_instructions
from compiler.codegen.vector_loops import vectorize_annotated_loops
from compiler.codegen.widening_products import widen_first
from compiler.passes.approximate_math import approximate_math
from compiler.program import ALIGNMENT, align
from compiler.target import Target

# Temporaries up to this size live on the stack of the thread that uses them.
MAX_STACK_BYTES = 32 * 1024
CALLING_CONV_C = 1
CPU_DEVICE_TYPE = 1


@dataclass(frozen=True)
class LoweredFunction:
    """A function ready for the LLVM back end.

    Args:
        func: the function over raw pointers.
        workspaces: bytes of each trailing workspace argument (large temporaries of the whole call).
        scratch: upper bound of the bytes each thread takes from its own scratch during the call.
    """

    func: tirx.PrimFunc
    workspaces: tuple[int, ...]
    scratch: int


def lower(functions: Mapping[str, tirx.PrimFunc], target: Target) -> dict[str, LoweredFunction]:
    """Run all loop-level passes over functions (C name -> scheduled PrimFunc)."""
    module = tvm.IRModule({name: _private(func) for name, func in functions.items()})
    module = tirx.transform.BindTarget(_loop_level_target(target))(module)
    module = _loop_passes(target)(module)
    return {
        gvar.name_hint: _with_pointers(_with_instructions(func, target), gvar.name_hint)
        for gvar, func in module.functions.items()
    }


def _with_instructions(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Vector arithmetic as the target does it, after vectorisation and unrolling."""
    if target.has_bfloat16:
        func = convert_bfloat16(func)
    if target.arch in ("aarch64", "arm") and target.vector.bits:
        func = narrow(func, target.arch)
    if target.arch == "arm" and target.vector.bits:
        func = long_products(func)
    func = use_nearest(func, target)
    func = approximate_math(func, target)
    func = use_table_instructions(func, target)
    func = shuffle_strided_loads(func)
    return use_ieee_extrema(func) if target.arch == "aarch64" else func


def object_code(functions: Mapping[str, LoweredFunction], target: Target) -> bytes:
    """Compile lowered functions to one relocatable object file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        _llvm_module(functions, target).write_to_file(str(path), "o")
        return path.read_bytes()


def source(functions: Mapping[str, LoweredFunction], target: Target, kind: str = "asm") -> str:
    """The generated assembly ("asm") or LLVM IR ("ll") of lowered functions."""
    return _llvm_module(functions, target).inspect_source(kind)


def _llvm_module(functions: Mapping[str, LoweredFunction], target: Target) -> tvm.runtime.Module:
    defined = with_definitions({name: lowered.func for name, lowered in functions.items()})
    module = tvm.IRModule(defined)
    module = tvm.ir.transform.Sequential(
        [
            tirx.transform.BF16StorageLegalize(),
            tirx.transform.LowerTVMBuiltin(),
            tirx.transform.LowerIntrin(),
        ]
    )(module)
    config = target.tvm()
    if target.arch in ("arm", "riscv64"):
        # At level 3 whole windows are unrolled, and their registers spilled.
        config["opt-level"] = 2
    built = tvm.get_global_func("target.build.llvm")(module, tvm.target.Target(config))
    return _rewritten(built, target)


def _rewritten(module: tvm.runtime.Module, target: Target) -> tvm.runtime.Module:
    """An LLVM module with what only the printed, optimised IR can be told."""
    text = module.inspect_source("ll")
    changed = with_attributes(with_intrinsics(text), target)
    if target.groups_loads:
        changed = group_loads(changed)
    if target.loads_register_groups:
        changed = widen_first(changed, target.vector.bits // VSCALE_BITS)
    if changed == text:
        return module
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.ll"
        path.write_text(changed, encoding="utf-8")
        return tvm.get_global_func("ffi.Module.load_from_file.ll")(str(path), "ll")


def _loop_level_target(target: Target) -> tvm.target.Target:
    """The target as loop passes see it.

    With "+v" in sight VectorizeLoop turns fixed vectors into predicated scalable ones and keeps
    accumulators in memory; LLVM emits RVV from fixed vectors as well, and ten times faster code.
    """
    config = target.tvm()
    if target.arch == "riscv64":
        config["mcpu"] = "generic-rv64"
        config["mattr"] = [f for f in config.get("mattr", []) if not f.startswith(("+v", "+zv"))]
    return tvm.target.Target(config, host=tvm.target.Target(config))


def _over_functions(rewrite: Callable[[tirx.PrimFunc], tirx.PrimFunc]) -> tvm.ir.transform.Pass:
    """``rewrite`` as a TVM pass over all PrimFuncs of a module."""

    def transform(
        func: tirx.PrimFunc, module: tvm.IRModule, context: tvm.ir.transform.PassContext
    ) -> tirx.PrimFunc:
        return rewrite(func)

    return tirx.transform.prim_func_pass(transform, opt_level=0, name=rewrite.__name__)


def _private(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.without_attr("global_symbol")


def _loop_passes(target: Target) -> tvm.ir.transform.Pass:
    return tvm.ir.transform.Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.StmtSimplify(),
            s_tir.transform.AnnotateIrregularLoop(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            *([] if target.has_bfloat16 else [tirx.transform.BF16ComputeLegalize()]),
            tirx.transform.NarrowDataType(32),
            _over_functions(renew_partition_hints),
            _over_functions(narrow_index_casts),
            _over_functions(vectorize_annotated_loops),
            tirx.transform.ConvertSSA(),
            s_tir.transform.LoopPartition(),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            s_tir.transform.HoistIfThenElse(),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            tirx.transform.CommonSubexprElim(),
        ]
    )


def _with_pointers(func: tirx.PrimFunc, name: str) -> LoweredFunction:
    """Replace buffer parameters by raw pointers and hoist large temporaries into parameters."""
    pointers, declarations = [], []
    for buffer in func.params:
        pointer = tirx.Var(buffer.name, tvm.ir.PointerType(buffer.ty.dtype))
        pointers.append(pointer)
        declarations.append(tirx.DeclBuffer(buffer, data=pointer))
    temporaries = _Temporaries()
    body = tirx.SeqStmt([*declarations, temporaries.place(func.body)])
    # LowerTVMBuiltin asks which device owns a workspace.
    body = tirx.AttrStmt("default", "device_type", CPU_DEVICE_TYPE, body)
    body = tirx.AttrStmt("default", "device_id", 0, body)
    params = [*pointers, *temporaries.pointers]
    lowered = tirx.PrimFunc(params, body, tvm.ir.PrimType("int32"), func.attrs)
    lowered = lowered.with_attr({"global_symbol": name, "calling_conv": CALLING_CONV_C})
    return LoweredFunction(lowered, tuple(temporaries.workspaces), temporaries.scratch)


class _Temporaries:
    """Decides where each temporary of a function lives: stack, arena, or a thread's scratch."""

    def __init__(self) -> None:
        self.pointers: list[tirx.Var] = []
        self.workspaces: list[int] = []
        self.scratch = 0
        self._in_parallel = False

    def place(self, body: tirx.Stmt) -> tirx.Stmt:
        return tvm_ffi.structural_mutate(
            body, [(tirx.For, self._visit_for), (tirx.AllocBuffer, self._visit_allocation)]
        )

    def _visit_for(self, loop: tirx.For, mutator: tvm_ffi.StructuralMutator) -> tirx.For:
        outer, self._in_parallel = (
            self._in_parallel,
            self._in_parallel or loop.kind == tirx.ForKind.PARALLEL,
        )
        loop = mutator.default_mutate(loop)
        self._in_parallel = outer
        return loop

    def _visit_allocation(
        self, stmt: tirx.AllocBuffer, mutator: tvm_ffi.StructuralMutator
    ) -> tirx.Stmt:
        buffer = stmt.buffer
        nbytes = math.prod(int(d) for d in buffer.ty.shape) * dtype_bytes(buffer.ty.dtype)
        if nbytes <= MAX_STACK_BYTES:
            return tirx.AllocBuffer(
                buffer, annotations={"disable_lower_builtin": tirx.IntImm("int32", 1)}
            )
        if self._in_parallel:
            self.scratch += align(nbytes) + ALIGNMENT
            return stmt
        pointer = tirx.Var(f"workspace{len(self.pointers)}", tvm.ir.PointerType(buffer.ty.dtype))
        self.pointers.append(pointer)
        self.workspaces.append(nbytes)
        return tirx.DeclBuffer(buffer, data=pointer)


def dtype_bytes(dtype: object) -> int:
    """Bytes of one element of a TVM data type, vectors included."""
    parsed = tvm.DataType(str(dtype))
    return math.ceil(parsed.bits * parsed.lanes / 8)
