"""Replace calls of the C mathematics library by straight-line vector arithmetic.

One libm call an element costs more than the rest of most element-wise kernels, and LLVM cannot
vectorise it. Run this after loops are vectorised and unrolled: schedules then see the short
``exp(x)``, and each call, scalar or vector, expands in place with names of its own.

    before:  B[ramp] = T.exp(A[ramp])
    after:   B[ramp] = let t0 = min(88.75, A[ramp]) in let t1 = ... in t9 * t12
"""

from __future__ import annotations

from collections.abc import Callable

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
    table = APPROXIMATIONS if rounds_in_hardware(target) else {**APPROXIMATIONS, **ROUNDINGS}

    def expand(call: tvm.ir.Call, mutator: tvm_ffi.StructuralMutator) -> tirx.PrimExpr:
        call = mutator.default_mutate(call)
        # Most operators live in the dialect "tirx", log2 and ceil in "prim".
        name = getattr(call.op, "name", "").rpartition(".")[2]
        return _expand(call, table[name]) if name in table else call

    body = tvm_ffi.structural_mutate(func.body, [(tvm.ir.Call, expand)])
    return func.with_body(body)


def ApproximateMath(target: Target) -> tvm.ir.transform.Pass:  # noqa: N802 (TVM's pass naming)
    """``approximate_math`` as a TVM pass over all PrimFuncs of a module."""

    def transform(
        func: tirx.PrimFunc, module: tvm.IRModule, context: tvm.ir.transform.PassContext
    ) -> tirx.PrimFunc:
        return approximate_math(func, target)

    return tirx.transform.prim_func_pass(transform, opt_level=0, name="ApproximateMath")


def rounds_in_hardware(target: Target) -> bool:
    """Whether floor and its like are one vector instruction, or inline code, for LLVM."""
    if target.arch == "x86_64":
        return target.vector.bits > 128 or "+sse4.1" in target.features
    return target.arch != "arm"


def _expand(call: tvm.ir.Call, approximation: Callable[..., tirx.PrimExpr]) -> tirx.PrimExpr:
    dtype = tvm.DataType(str(call.ty.dtype))
    if dtype.bits == 64 or not str(dtype).startswith("float"):
        return call
    b = Expansion(dtype.lanes)
    arguments = [b.let(b.lift(argument)) for argument in call.args]
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
