"""smmla: eight products of int8 added to each of 2 x 2 int32, of Armv8.6's i8mm extension."""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as script

from schedules.intrinsics.description import llvm, register_functions

GROUP = 8
PAIR = 2
LANES = PAIR * PAIR
_SMMLA = "llvm.aarch64.neon.smmla.v4i32.v16i8"


def mmla() -> str:
    """The intrinsic for the sums of two pixels and two channels; returns its name.

    The inputs of a pixel lie together, those of its neighbour anywhere behind.
    """

    @script.prim_func(s_tir=True)
    def description(inputs: script.handle, weights: script.handle, result: script.handle) -> None:
        distance = script.int32()
        x = script.match_buffer(
            inputs, (PAIR, GROUP), "int8", offset_factor=1, strides=[distance, 1]
        )
        w = script.match_buffer(weights, (PAIR, GROUP), "int8", offset_factor=1)
        sums = script.match_buffer(result, (PAIR, PAIR), "int32", offset_factor=1)
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:GROUP], w[0:PAIR, 0:GROUP])
            script.writes(sums[0:PAIR, 0:PAIR])
            for i, j, k in script.grid(PAIR, PAIR, GROUP):
                with script.sblock("update"):
                    p, c, g = script.axis.remap("SSR", [i, j, k])
                    sums[p, c] = sums[p, c] + script.cast(x[p, g], "int32") * script.cast(
                        w[c, g], "int32"
                    )

    @script.prim_func(s_tir=True)
    def implementation(
        inputs: script.handle, weights: script.handle, result: script.handle
    ) -> None:
        distance = script.int32()
        x = script.match_buffer(
            inputs, (PAIR, GROUP), "int8", offset_factor=1, strides=[distance, 1]
        )
        w = script.match_buffer(weights, (PAIR, GROUP), "int8", offset_factor=1)
        sums = script.match_buffer(result, (PAIR, PAIR), "int32", offset_factor=1)
        with script.sblock("root"):
            script.reads(sums[0:PAIR, 0:PAIR], x[0:PAIR, 0:GROUP], w[0:PAIR, 0:GROUP])
            script.writes(sums[0:PAIR, 0:PAIR])
            sums[0, script.ramp(0, 1, LANES)] = llvm(
                _SMMLA,
                f"int32x{LANES}",
                sums.vload([0, 0], f"int32x{LANES}"),
                tirx.vectorcombine(
                    f"int8x{PAIR * GROUP}",
                    x.vload([0, 0], f"int8x{GROUP}"),
                    x.vload([1, 0], f"int8x{GROUP}"),
                ),
                w.vload([0, 0], f"int8x{PAIR * GROUP}"),
            )

    return register_functions("neon_mmla", description, implementation)
