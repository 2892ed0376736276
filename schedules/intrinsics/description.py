"""What dot-product intrinsics compute, as TIR, beside how they do it."""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as script

_registering = threading.Lock()  # kernels are scheduled in threads
# (x, w, sums as buffers) -> the new sums as one vector.
Product = Callable[[Any, Any, Any], Any]
# What an intrinsic computes, and how.
Functions = tuple[tirx.PrimFunc, tirx.PrimFunc]


def register(
    name: str,
    lanes: int,
    group: int,
    operand: str,
    product: Product,
    weight: str = "int8",
    total: str = "int32",
) -> str:
    """Make an intrinsic known to TVM: sums[l] += sum over g of x[g] * w[l, g].

    Args:
        name: returned with the project's prefix.
        operand, weight, total: dtypes of x [group], w [lanes, group] and sums [lanes].
        product: how.
    """
    return register_functions(
        name, partial(_functions, lanes, group, operand, product, weight, total)
    )


def register_parts(
    name: str, lanes: int, parts: int, part: int, operand: str, product: Product
) -> str:
    """The same for groups whose weights lie in parts, w [parts, lanes, part]."""
    return register_functions(
        name, partial(_functions_of_parts, lanes, parts, part, operand, product)
    )


def register_functions(name: str, make: Callable[[], Functions]) -> str:
    """Make an intrinsic known to TVM; returns its name with the project's prefix.

    Args:
        make: called where it is not known yet, by one thread at a time: Python's parser, which
            TVMScript asks, fails now and then when threads use it together.
    """
    name = f"edgecc.{name}"
    with _registering:
        if TensorIntrin.get(name, allow_missing=True) is None:
            TensorIntrin.register(name, *make())
    return name


def _functions(
    lanes: int, group: int, operand: str, product: Product, weight: str, total: str
) -> Functions:

    @script.prim_func(s_tir=True)
    def description(
        x: script.Buffer((group,), operand, offset_factor=1),
        w: script.Buffer((lanes, group), weight, offset_factor=1),
        sums: script.Buffer((lanes,), total, offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:lanes], x[0:group], w[0:lanes, 0:group])
            script.writes(sums[0:lanes])
            for i, g in script.grid(lanes, group):
                with script.sblock("update"):
                    l, r = script.axis.remap("SR", [i, g])  # noqa: E741
                    sums[l] = sums[l] + script.cast(x[r], total) * script.cast(w[l, r], total)

    @script.prim_func(s_tir=True)
    def implementation(
        x: script.Buffer((group,), operand, offset_factor=1),
        w: script.Buffer((lanes, group), weight, offset_factor=1),
        sums: script.Buffer((lanes,), total, offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:lanes], x[0:group], w[0:lanes, 0:group])
            script.writes(sums[0:lanes])
            sums[script.ramp(0, 1, lanes)] = product(x, w, sums)

    return description, implementation


def _functions_of_parts(
    lanes: int, parts: int, part: int, operand: str, product: Product
) -> Functions:
    group = parts * part

    @script.prim_func(s_tir=True)
    def description(
        x: script.Buffer((group,), operand, offset_factor=1),
        w: script.Buffer((parts, lanes, part), "int8", offset_factor=1),
        sums: script.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:lanes], x[0:group], w[0:parts, 0:lanes, 0:part])
            script.writes(sums[0:lanes])
            for i, g in script.grid(lanes, group):
                with script.sblock("update"):
                    l, r = script.axis.remap("SR", [i, g])  # noqa: E741
                    sums[l] = sums[l] + script.cast(x[r], "int32") * script.cast(
                        w[r // part, l, r % part], "int32"
                    )

    @script.prim_func(s_tir=True)
    def implementation(
        x: script.Buffer((group,), operand, offset_factor=1),
        w: script.Buffer((parts, lanes, part), "int8", offset_factor=1),
        sums: script.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with script.sblock("root"):
            script.reads(sums[0:lanes], x[0:group], w[0:parts, 0:lanes, 0:part])
            script.writes(sums[0:lanes])
            sums[script.ramp(0, 1, lanes)] = product(x, w, sums)

    return description, implementation


def llvm(name: str, dtype: str, *args: tirx.PrimExpr) -> tirx.PrimExpr:
    """A call of one of LLVM's intrinsics."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def repeated(x: Any, dtype: str, lanes: int, position: int = 0) -> tirx.PrimExpr:
    """32 bits from a position of a buffer on in each of ``lanes`` lanes, as a vector of dtype."""
    head = tirx.reinterpret("int32", x.vload([position], f"{x.dtype}x{4 // _bytes(str(x.dtype))}"))
    return tirx.reinterpret(dtype, tirx.Broadcast(head, lanes))


def _bytes(dtype: str) -> int:
    return 2 if dtype.endswith("16") else 1
