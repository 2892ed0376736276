"""Products of bytes by pairs of rows and of columns (smmla), against NumPy under emulation."""

import re

import numpy as np
import pytest
from tvm import te, tirx

import schedules
from compiler.passes import integer_ops
from compiler.passes.dot_layout import dot_layouts
from compiler.target import load_target
from schedules.choices import Listing, TakeValues, take_default
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests.kernels import assembly, run

TARGET = load_target("arm_neoverse_n2")
LAYOUT = dot_layouts(TARGET)[0]
# (left, columns): odd rows, ragged columns, a batch of odd rows, several blocks of rows.
CASES = [((2, 8), 16), ((7, 40), 21), ((2, 3, 24), 33), ((30, 64), 48)]


def scheduled(left, columns, choose=take_default) -> tuple[tirx.PrimFunc, dict[str, str]]:
    """int32 sums of left [..., M, K] with constant weights [K, N]."""
    a = te.placeholder(left, "int8", name="a")
    blocks = -(-columns // LAYOUT.block)
    packed = (blocks, left[-1] // LAYOUT.group, LAYOUT.block, LAYOUT.group)
    w = te.placeholder(packed, "int8", name="w")
    sums = integer_ops.matmul(a, w, None, None, columns, LAYOUT)
    func = te.create_prim_func([a, w, sums]).with_attr(CONSTANT_INPUTS, [1])
    return schedules.apply(func, TARGET, choose)


def check(func: tirx.PrimFunc, left, columns) -> None:
    """Exact, also of the extremes."""
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, left).astype("int8")
    w = rng.integers(-128, 128, (left[-1], columns)).astype("int8")
    a[..., -1, :], w[:, -1] = -128, -128
    inputs = [a, integer_ops.pack_columns(w, LAYOUT)]
    for position, wanted in rearrangements(func).items():
        inputs[position] = wanted.apply(inputs[position])
    (got,) = run(func, inputs, TARGET)
    np.testing.assert_array_equal(got, a.astype("int64") @ w.astype("int64"))


@pytest.mark.parametrize(("left", "columns"), CASES)
def test_sums_are_exact(left, columns):
    func, report = scheduled(left, columns)
    assert (report["template"], report["intrinsic"]) == ("matmul_integer", "neon_mmla")
    check(func, left, columns)


@pytest.mark.parametrize(("left", "columns"), [CASES[1], CASES[3]])
def test_every_decision_gives_the_same_sums(left, columns):
    listing = Listing()
    scheduled(left, columns, listing)
    rows = listing.space.rows
    assert len(rows) > 2
    for values in {rows[1], rows[len(rows) // 2], rows[-1]}:
        check(scheduled(left, columns, TakeValues(values))[0], left, columns)


def test_loops_multiply():
    """Two in three and more of the instructions, and nothing is on the stack."""
    text = assembly(scheduled((128, 384), 384)[0], TARGET)
    loop = max(re.split(r"^\.LBB\w+:", text, flags=re.M), key=lambda part: part.count("smmla"))
    loop = loop.partition("\tb.ne")[0]
    instructions = re.findall(r"^\t([a-z]\S*)", loop, re.M)
    assert instructions.count("smmla") >= 0.75 * len(instructions)
    assert "[sp" not in loop
