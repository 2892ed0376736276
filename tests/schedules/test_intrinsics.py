"""Dot-product intrinsics: what they do is what their descriptions say."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tvm import s_tir, te, tirx

from compiler.passes.dot_layout import DotLayout, bfloat16_layouts, dot_layouts, wide_layouts
from compiler.target import load_target
from schedules.intrinsics.dot import Dot, dot_product
from schedules.intrinsics.neon_mlal import LANES
from schedules.intrinsics.neon_mmla import group_of, mmla
from tests.kernels import assembly, run

TARGETS = ("host", "x86_64", "arm_cortex_a76", "arm_cortex_a72", "arm_cortex_a7")


@pytest.mark.parametrize("name", TARGETS)
def test_implementation_is_the_description(name):
    """TVM compares the description with the loops it replaces; the loops are run, too."""
    target = load_target(name)
    for layout in (*dot_layouts(target), *wide_layouts(target)):
        dot = dot_product(target, layout.operand, layout.group)
        assert dot is not None
        x, w = operands(layout, LANES if dot.collect else dot.lanes)
        expected = np.einsum("sg,slg->l", x.astype("int64"), w.astype("int64"))
        if layout.parts > 1:
            w = w.reshape(len(w), -1, layout.parts, layout.part).swapaxes(1, 2)
        for tensorized in (False, True):
            func = sums_of_steps(layout, dot, len(x), tensorized)
            np.testing.assert_array_equal(run(func, [x, w], target)[0], expected)


def sums_of_steps(layout: DotLayout, dot: Dot, steps: int, tensorized: bool) -> tirx.PrimFunc:
    lanes = LANES if dot.collect else dot.lanes
    x = te.placeholder((steps, layout.group), layout.operand, name="x")
    parts = layout.parts
    split = (parts, lanes, layout.part) if parts > 1 else (lanes, layout.group)
    dtype = "int8" if layout.sums == "int32" else layout.operand
    w = te.placeholder((steps, *split), dtype, name="w")
    step = te.reduce_axis((0, steps), name="step")
    g = te.reduce_axis((0, layout.group), name="g")

    def product(i):
        position = (g // layout.part, i, g % layout.part) if parts > 1 else (i, g)
        return x[step, g].astype(layout.sums) * w[(step, *position)].astype(layout.sums)

    sums = te.compute((lanes,), lambda i: te.sum(product(i), axis=[step, g]), name="sums")
    schedule = s_tir.Schedule(te.create_prim_func([x, w, sums]))
    block = schedule.get_sblock("sums")
    lane, outer, inner = schedule.get_loops(block)
    if dot.collect:
        return sums_in_parts(schedule, dot, tensorized)
    schedule.reorder(outer, lane, inner)
    schedule.decompose_reduction(block, outer)
    if tensorized:
        schedule.tensorize(lane, dot.name)
    return schedule.mod["main"]


def sums_in_parts(schedule: s_tir.Schedule, dot: Dot, tensorized: bool) -> tirx.PrimFunc:
    total = schedule.get_sblock("sums")
    lane, step, inner = schedule.get_loops(total)
    high, part, low = schedule.split(inner, [2, LANES, 2])
    parts = schedule.rfactor(part, 1)
    lane, step, high, part, low = schedule.get_loops(parts)
    schedule.reorder(step, lane, part, high, low)
    schedule.decompose_reduction(parts, step)
    total_lane = schedule.get_loops(total)[0]
    schedule.decompose_reduction(total, total_lane)
    if tensorized:
        schedule.tensorize(part, dot.name)
        schedule.tensorize(total_lane, dot.collect)
    return schedule.mod["main"]


def test_pairs_of_pixels_and_channels():
    target = load_target("arm_neoverse_n2")
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-128, 128, shape).astype("int8") for shape in ((5, 2, 24), (5, 2, 8)))
    x[0], w[0] = -128, -128
    expected = np.einsum("spg,scg->pc", x[:, :, 8:16].astype("int64"), w.astype("int64"))
    for tensorized in (False, True):
        func = sums_of_pairs("int8", tensorized)
        np.testing.assert_array_equal(run(func, [x, w], target)[0], expected)
    assert "smmla" in assembly(func, target)
    x = np.ascontiguousarray(x[:, :, 8:16])
    for tensorized in (False, True):
        func = sums_of_pairs("int8", tensorized, together=True)
        np.testing.assert_array_equal(run(func, [x, w], target)[0], expected)
    assert "smmla" in assembly(func, target)


def narrow_numbers(*shape: int) -> np.ndarray:
    """bfloat16 of many magnitudes, whose products are exact in float32."""
    rng = np.random.default_rng(len(shape))
    numbers = rng.standard_normal(shape) * np.exp2(rng.integers(-12, 12, shape))
    return numbers.astype(ml_dtypes.bfloat16)


def check_sums(got: np.ndarray, x: np.ndarray, w: np.ndarray, axes: str) -> None:
    """An addition of the instructions is off by less than 2^-23, and there are 4 each at most."""
    x, w = x.astype("float64"), w.astype("float64")
    wanted, magnitude = np.einsum(axes, x, w), np.einsum(axes, abs(x), abs(w))
    assert (abs(got - wanted) <= 4 * len(x) * 2.0**-23 * magnitude).all()


def test_bfloat16_is_summed_up_in_float32():
    target = load_target("arm_neoverse_n2")
    layout = bfloat16_layouts(target)[1]
    dot = dot_product(target, layout.operand, layout.group)
    assert dot is not None
    x, w = narrow_numbers(9, 2), narrow_numbers(9, 4, 2)
    for tensorized in (False, True):
        func = sums_of_steps(layout, dot, len(x), tensorized)
        check_sums(run(func, [x, w], target)[0], x, w, "sg,slg->l")
    assert "bfdot" in assembly(func, target)
    x, w = narrow_numbers(5, 2, 12), narrow_numbers(5, 2, 4)
    for tensorized in (False, True):
        func = sums_of_pairs("bfloat16", tensorized)
        check_sums(run(func, [x, w], target)[0], x[:, :, 4:8], w, "spg,scg->pc")
    assert "bfmmla" in assembly(func, target)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_bfloat16_of_avx512_is_compiled(lanes):
    """Nothing here runs it."""
    target = load_target("x86_64_bf16")
    target = replace(target, vector=replace(target.vector, bits=32 * lanes))
    (layout,) = bfloat16_layouts(target)
    dot = dot_product(target, layout.operand, layout.group)
    assert dot is not None
    text = assembly(sums_of_steps(layout, dot, 9, tensorized=True), target)
    assert text.count("vdpbf16ps") == 9
    x = te.placeholder((lanes,), "float32", name="x")
    rounded = te.compute((lanes,), lambda i: x[i].astype("bfloat16"), name="rounded")
    schedule = s_tir.Schedule(te.create_prim_func([x, rounded]))
    schedule.vectorize(*schedule.get_loops(schedule.get_sblock("rounded")))
    assert assembly(schedule.mod["main"], target).count("vcvtneps2bf16") == 1


def sums_of_pairs(dtype: str, tensorized: bool, together: bool = False) -> tirx.PrimFunc:
    """Of two pixels whose inputs lie together, or are the middle of longer ones."""
    group, total = group_of(dtype), "int32" if dtype == "int8" else "float32"
    before, length = (0, group) if together else (group, 3 * group)
    x = te.placeholder((5, 2, length), dtype, name="x")
    w = te.placeholder((5, 2, group), dtype, name="w")
    step, g = te.reduce_axis((0, 5), name="step"), te.reduce_axis((0, group), name="g")
    sums = te.compute(
        (2, 2),
        lambda p, c: te.sum(
            x[step, p, before + g].astype(total) * w[step, c, g].astype(total), axis=[step, g]
        ),
        name="sums",
    )
    schedule = s_tir.Schedule(te.create_prim_func([x, w, sums]))
    block = schedule.get_sblock("sums")
    pixel, channel, outer, inner = schedule.get_loops(block)
    schedule.reorder(outer, pixel, channel, inner)
    schedule.decompose_reduction(block, outer)
    if tensorized:
        schedule.tensorize(pixel, mmla(dtype, together))
    return schedule.mod["main"]


def operands(layout: DotLayout, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """x [steps, group] and w [steps, lanes, group]: the greatest of each sign, and random ones."""
    rng = np.random.default_rng(0)
    info = np.iinfo(layout.activation)
    bound = layout.most_neighbours
    most = 127 if bound is None else bound // (2 * layout.parts)
    x = rng.integers(info.min, info.max + 1, (8, layout.group))
    w = rng.integers(-most, most + 1, (8, lanes, layout.group))
    x[0:4], w[0:3] = info.max, most
    x[4:6], w[3:6] = info.min, -most
    return x.astype(layout.operand), w.astype("int8")


def test_weights_that_could_saturate_are_refused():
    layout = DotLayout(8, 4, "uint8", "uint8", most_neighbours=128)
    weight = np.zeros((4, 4, 1, 1), "int8")
    weight[1, :2, 0, 0] = 100, 28
    weight[2, 1:3, 0, 0] = 127, 127  # of different pairs
    weight[3, 2:, 0, 0] = -127, 127
    assert layout.takes(weight)
    weight[1, 1] = 29
    assert not layout.takes(weight)
    weight[1, 1] = -128
    assert layout.takes(weight)
    weight[1, 0] = -1
    assert not layout.takes(weight)


def test_sums_of_both_parts_are_bounded():
    layout = DotLayout(8, 8, "uint8", "uint8", most_neighbours=128, part=4)
    weight = np.zeros((2, 12, 1, 1), "int8")
    weight[0, [0, 1, 4, 5], 0, 0] = 32
    weight[0, [2, 3, 6, 7], 0, 0] = -32
    weight[1, [0, 2, 8], 0, 0] = 127  # of three sums
    assert layout.takes(weight)
    weight[0, 7] = -33
    assert not layout.takes(weight)
    weight[0, 7] = 33
    assert layout.takes(weight)
    weight[1, 9] = 2
    assert not layout.takes(weight)


def test_avx_vnni_needs_no_avx512():
    """256-bit products of four bytes; tests/bochs runs the same in AVX-512's encoding."""
    target = load_target("x86_64_avxvnni")
    (layout,) = dot_layouts(target)
    dot = dot_product(target, layout.operand, layout.group)
    assert dot is not None
    text = assembly(sums_of_steps(layout, dot, 4, tensorized=True), target)
    assert "vpdpbusd" in text
    assert "ymm" in text
    assert "zmm" not in text
