"""Loads of neighbouring vectors become one instruction, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from compiler.codegen.load_groups import group_loads
from compiler.target import load_target
from tests import kernels

SPLAT = "<4 x i32> zeroinitializer"


def function(loads: list[int], use: str = "lane", between: str = "") -> str:
    """LLVM IR that loads vectors at these offsets and multiplies a lane of each."""
    lines = ["define void @f(ptr %p, ptr %q, <4 x float> %w) {", "entry:"]
    for i, offset in enumerate(loads):
        lines.append(f"  %a{i} = getelementptr inbounds i8, ptr %p, i64 {offset}")
        lines.append(f"  %v{i} = load <4 x float>, ptr %a{i}, align 4")
        lines += [between] if between and i == 1 else []
    for i in range(len(loads)):
        factor = f"%v{i}"
        if use == "lane":
            factor = f"%s{i}"
            splat = f"shufflevector <4 x float> %v{i}, <4 x float> poison, {SPLAT}"
            lines.append(f"  {factor} = {splat}")
        arguments = f"<4 x float> {factor}, <4 x float> %w, <4 x float> %w"
        lines.append(f"  %r{i} = call <4 x float> @llvm.fmuladd.v4f32({arguments})")
        lines.append(f"  store <4 x float> %r{i}, ptr %q, align 4")
    return "\n".join([*lines, "  ret void", "}", ""])


def groups(text: str) -> list[int]:
    """Sizes of the groups that the rewritten IR loads."""
    calls = [line for line in text.splitlines() if "= call {" in line]
    return [int(line.split("ld1x")[1][0]) for line in calls]


@pytest.mark.parametrize(
    ("vectors", "sizes"),
    [
        (2, []),
        (3, [3]),
        (4, [4]),
        (5, [3]),
        (6, [3, 3]),
        (7, [4, 3]),
        (9, [3, 3, 3]),
        (13, [4, 3, 3, 3]),
    ],
)
def test_neighbours_are_loaded_together(vectors, sizes):
    text = group_loads(function([16 * i for i in range(vectors)]))
    assert groups(text) == sizes
    assert text.count("= load ") == vectors - sum(sizes)


def test_addresses_are_chained():
    text = group_loads(function([16 * i for i in range(4)] + [128 + 16 * i for i in range(3)]))
    assert groups(text) == [4, 3]
    assert "ptr %group0.next)" in text
    # The first group's increment covers the gap behind it, too.
    assert 'i64 asm "", "=r,0"(i64 128)' in text


LOOP = """define void @f(ptr %p, ptr %q, <4 x float> %w, i32 %first) {
entry:
  br label %before

before:
  br label %round

round:
  %i = phi i64 [ 0, %before ], [ %next, %round ]
  %low = trunc i64 %i to i32
  %far = mul i32 %low, 100
  %at = add i32 %first, %far
  %wide = sext i32 %at to i64
  %a0 = getelementptr inbounds float, ptr %p, i64 %wide
  %v0 = load <4 x float>, ptr %a0, align 4
  %a1 = getelementptr inbounds i8, ptr %a0, i64 16
  %v1 = load <4 x float>, ptr %a1, align 4
  %a2 = getelementptr inbounds i8, ptr %a0, i64 32
  %v2 = load <4 x float>, ptr %a2, align 4
  %s0 = shufflevector <4 x float> %v0, <4 x float> poison, <4 x i32> zeroinitializer
  %s1 = shufflevector <4 x float> %v1, <4 x float> poison, <4 x i32> zeroinitializer
  %s2 = shufflevector <4 x float> %v2, <4 x float> poison, <4 x i32> zeroinitializer
  %next = add nuw nsw i64 %i, 1
  %done = icmp eq i64 %next, 7
  br i1 %done, label %end, label %round

end:
  ret void
}
"""


def test_addresses_are_carried_from_round_to_round():
    """They start where the first round's address is computed, and move by 100 floats a round."""
    lines = [line.strip() for line in group_loads(LOOP).splitlines()]
    carried = "%group0.carried = phi ptr [ %group0.start.4, %before ], [ %group0.next, %round ]"
    assert lines.index("round:") + 1 == lines.index(carried)
    start = lines.index("before:") + 1
    assert lines[start : start + 6] == [
        "%group0.start.0 = trunc i64 0 to i32",
        "%group0.start.1 = mul i32 %group0.start.0, 100",
        "%group0.start.2 = add i32 %first, %group0.start.1",
        "%group0.start.3 = sext i32 %group0.start.2 to i64",
        "%group0.start.4 = getelementptr inbounds float, ptr %p, i64 %group0.start.3",
        "br label %round",
    ]
    assert '%step0 = call i64 asm "", "=r,0"(i64 400)' in lines
    assert "%group0.sum = getelementptr i8, ptr %group0.carried, i64 %step0" in lines


def test_addresses_that_move_unevenly_are_not_carried():
    text = LOOP.replace("mul i32 %low, 100", "mul i32 %low, %low")
    assert "phi ptr" not in group_loads(text)
    assert groups(group_loads(text)) == [3]


@pytest.mark.parametrize(
    "text",
    [
        function([0, 32, 64, 96]),
        function([0, 16, 32], use="whole"),
        function([0, 16, 32], between="  store <4 x float> %w, ptr %q, align 4"),
    ],
    ids=["apart", "not_by_lane", "store_between"],
)
def test_other_loads_are_left_alone(text):
    assert group_loads(text) == text


def product(rows: int) -> tirx.PrimFunc:
    """left [64, rows] transposed x right [64, 4], all rows in registers, 4 values a vector load."""
    left = te.placeholder((16, rows, 4), name="left")
    right = te.placeholder((16, 4, 4), name="right")
    k = te.reduce_axis((0, 16), name="k")
    lane = te.reduce_axis((0, 4), name="lane")
    result = te.compute(
        (rows, 4),
        lambda i, j: te.sum(left[k, i, lane] * right[k, lane, j], axis=[k, lane]),
        name="result",
    )
    schedule = s_tir.Schedule(te.create_prim_func([left, right, result]))
    block = schedule.get_sblock("result")
    schedule.cache_write(block, 0, "local")
    row, column, step, lane = schedule.get_loops(block)
    schedule.reorder(step, lane, row, column)
    inputs = schedule.cache_read(block, 0, "local")
    schedule.compute_at(inputs, step)
    *_, pixel, value = schedule.get_loops(inputs)
    schedule.vectorize(value)
    schedule.vectorize(column)
    for loop in (pixel, lane, row):
        schedule.unroll(loop)
    schedule.decompose_reduction(block, step)
    return schedule.mod["main"]


@pytest.mark.parametrize("rows", [3, 5, 8, 11])
def test_kernels_compute_the_same(rows):
    target = load_target("arm_cortex_a76")
    func = product(rows)
    assert "ld1\t{" in kernels.assembly(func, target)
    assert "ld1\t{" not in kernels.assembly(func, load_target("arm_cortex_a55"))
    rng = np.random.default_rng(rows)
    left = rng.standard_normal((16, rows, 4)).astype("f4")
    right = rng.standard_normal((16, 4, 4)).astype("f4")
    (result,) = kernels.run(func, [left, right], target)
    np.testing.assert_allclose(result, np.einsum("kil,klj->ij", left, right), 1e-4, 1e-5)
