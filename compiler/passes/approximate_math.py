"""Replace calls of the C mathematics library by straight-line vector arithmetic.

One libm call an element costs more than the rest of most element-wise kernels, and LLVM cannot
vectorise it. Run this after loops are vectorised and unrolled: schedules then see the short
``exp(x)``, and each call, scalar or vector, expands in place with names of its own.

    before:  B[ramp] = T.exp(A[ramp])
    after:   B[ramp] = let t0 = min(88.75, A[ramp]) in let t1 = ... in t9 * t12
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import tirx

from compiler.passes.approximations import (
    exponential,
    logarithm,
    power,
    rational,
    rounding,
    trigonometry,
)
from compiler.passes.approximations.expansion import Expansion
from compiler.target import Target

APPROXIMATIONS: dict[str, Callable[..., tirx.PrimExpr]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "exp10": exponential.exp10,
    "sigmoid": exponential.sigmoid,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "log": logarithm.log,
    "log2": logarithm.log2,
    "log10": logarithm.log10,
    "log1p": logarithm.log1p,
    "asinh": logarithm.asinh,
    "acosh": logarithm.acosh,
    "atanh": logarithm.atanh,
    "tanh": rational.tanh,
    "erf": rational.erf,
    "sin": trigonometry.sin,
    "cos": trigonometry.cos,
    "tan": trigonometry.tan,
    "atan": trigonometry.atan,
    "asin": trigonometry.asin,
    "acos": trigonometry.acos,
    "pow": power.pow_,
}
ROUNDINGS: dict[str, Callable[..., tirx.PrimExpr]] = {
    "floor": rounding.floor,
    "ceil": rounding.ceil,
    "trunc": rounding.trunc,
    "round": rounding.nearbyint,  # TVM rounds ties to even, as ONNX does
    "nearbyint": rounding.nearbyint,
}
# Element-wise operators that TVM does not know to be so; VectorizeLoop would make scalar loops of
# the statements that hold them.
_ALSO_VECTORIZABLE = (
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "erf",
    "log1p",
    "nearbyint",
    "rsqrt",
)


def _declare_vectorizable() -> None:
    for name in _ALSO_VECTORIZABLE:
        # has_attr is true of every operator as soon as one has the attribute.
        if tvm.ir.Op.get(f"tirx.{name}").get_attr("TVectorizable") is None:
            tvm.ir.register_op_attr(f"tirx.{name}", "TVectorizable", True)


_declare_vectorizable()


def approximate_math(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Expand mathematical calls of float32, and of float16 through float32.

    float64 calls keep the C library: their users ask for digits, not for speed. Rounding
    functions expand only where the target's vector unit cannot round.

    Args:
        func: a function, scheduled or not; vector calls expand to vector arithmetic.
        target: the CPU that the code is for.
    """
    expander = _Expander(target)
    callbacks = [
        (tirx.BufferStore, expander.store),
        (tirx.Let, expander.inside),
        (tvm.ir.Call, expander.call),
    ]
    return func.with_body(tvm_ffi.structural_mutate(func.body, callbacks))


def rounds_in_hardware(target: Target) -> bool:
    """Whether floor and its like are one vector instruction, or inline code, for LLVM."""
    if target.arch == "x86_64":
        return target.vector.bits > 128 or "+sse4.1" in target.features
    return target.arch != "arm"


class _Expander:
    """Of calls in the order of their evaluation, innermost first.

    A call whose argument holds another finds that argument in a buffer of registers' size, which
    LLVM keeps in registers: code generation takes time exponential in the depth of lets that use
    each other.
    """

    def __init__(self, target: Target) -> None:
        known = APPROXIMATIONS
        self.table = known if rounds_in_hardware(target) else {**known, **ROUNDINGS}
        # What comes before the statement at hand; None where nothing may.
        self.before: list[tirx.Stmt] | None = None

    def store(self, stmt: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        outer, self.before = self.before, []
        stmt = mutator.default_mutate(stmt)
        before, self.before = self.before, outer
        return tirx.SeqStmt([*before, stmt]) if before else stmt

    def inside(self, expr: tirx.PrimExpr, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        """What is computed in one place only, under a condition or where a name is known."""
        outer, self.before = self.before, None
        expr = mutator.default_mutate(expr)
        self.before = outer
        return expr

    def call(self, call: tvm.ir.Call, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        # Most operators live in the dialect "tirx", log2 and ceil in "prim".
        name = getattr(call.op, "name", "").rpartition(".")[2]
        if name == "if_then_else":
            return self.inside(call, mutator)
        expanded = mutator.default_mutate(call)
        if name not in self.table or not _is_short_float(call):
            return expanded
        pairs = zip(call.args, expanded.args, strict=True)
        arguments = [new if new.same_as(old) else self._stored(new) for old, new in pairs]
        return _expand(call, arguments, self.table[name])

    def _stored(self, value: tirx.PrimExpr) -> tirx.PrimExpr:
        if self.before is None:
            return value
        dtype = tvm.DataType(str(value.ty.dtype))
        element = str(value.ty.dtype).partition("x")[0]
        buffer = tirx.decl_buffer((dtype.lanes,), element, "argument")
        index = tirx.Ramp(0, 1, dtype.lanes) if dtype.lanes > 1 else 0
        self.before += [tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, value, [index])]
        return tirx.BufferLoad(buffer, [index])


def _is_short_float(call: tvm.ir.Call) -> bool:
    dtype = tvm.DataType(str(call.ty.dtype))
    return str(dtype).startswith("float") and dtype.bits < 64


def _expand(
    call: tvm.ir.Call,
    values: Sequence[tirx.PrimExpr],
    approximation: Callable[..., tirx.PrimExpr],
) -> tirx.PrimExpr:
    """Args:
    values: of the arguments, with what they call expanded.
    """
    dtype = tvm.DataType(str(call.ty.dtype))
    b = Expansion(dtype.lanes)
    arguments = [b.let(b.lift(value)) for value in values]
    if dtype.bits == 16:
        arguments = [b.cast(argument, "float32") for argument in arguments]
    if len(call.args) == 2:
        # A constant exponent must stay visible.
        constant = _constant(call.args[1])
        arguments[1] = arguments[1] if constant is None else b.const(constant)
    result = approximation(b, *arguments)
    return b.finish(b.cast(result, "float16") if dtype.bits == 16 else result)


def _constant(value: tirx.PrimExpr) -> float | None:
    inner = value.value if isinstance(value, tirx.Broadcast) else value
    return float(inner.value) if isinstance(inner, (tirx.FloatImm, tirx.IntImm)) else None
