"""Products of bytes and of words on RVV against NumPy, under emulation."""

import re

import numpy as np
import pytest
from tvm import te

import schedules
from compiler.passes import integer_ops, packed_ops
from compiler.passes.dot_layout import dot_layouts, wide_layouts
from compiler.target import load_target
from schedules.choices import Listing, TakeValues, take_default
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests.kernels import assembly, run

# (batch and rows, depth, columns)
CASES = {
    "one_row": ((1,), 100, 71),
    "ragged_everywhere": ((2, 13), 17, 67),
    "depth_of_one": ((7,), 1, 3),
    "whole": ((64,), 96, 128),
}


class Problem:
    """One product with data that reaches the ends of its types."""

    def __init__(self, case, layout, seed=0):
        rows, depth, columns = case
        rng = np.random.default_rng(seed)
        info = np.iinfo(layout.activation)
        self.layout, self.columns = layout, columns
        self.a = rng.integers(info.min, info.max + 1, (*rows, depth)).astype(layout.activation)
        self.a[..., 0] = info.min
        self.weight = rng.integers(-127, 128, (depth, columns)).astype("int8")
        self.weight[0] = 127
        blocks = -(-columns // layout.block)
        self.bias = rng.integers(-3000, 3000, (blocks, layout.block)).astype("int32")

    def scheduled(self, target, choose=take_default):
        packed = integer_ops.pack_columns(self.weight, self.layout)
        tensors = [
            te.placeholder(value.shape, str(value.dtype), name=name)
            for name, value in (("a", self.a), ("w", packed), ("bias", self.bias))
        ]
        result = integer_ops.matmul(*tensors, None, self.columns, self.layout)
        func = te.create_prim_func([*tensors, result]).with_attr(CONSTANT_INPUTS, [1, 2])
        func, report = schedules.apply(func, target, choose)
        assert report["template"] == "matmul_integer"
        assert report["intrinsic"] == "rvv_vwmacc"
        return func

    def check(self, func, target):
        inputs = [self.a, integer_ops.pack_columns(self.weight, self.layout), self.bias]
        for position, wanted in rearrangements(func).items():
            inputs[position] = wanted.apply(inputs[position])
        (got,) = run(func, inputs, target)
        want = self.a.astype("int64") @ self.weight.astype("int64")
        np.testing.assert_array_equal(got, want + self.bias.reshape(-1)[: self.columns])


@pytest.mark.parametrize("case", CASES)
def test_sums_are_exact(case):
    target = load_target("riscv_spacemit_x60")
    problem = Problem(CASES[case], dot_layouts(target)[0])
    problem.check(problem.scheduled(target), target)


@pytest.mark.parametrize(("name", "layouts"), [("x280", dot_layouts), ("x60", wide_layouts)])
def test_longer_registers_and_words(name, layouts):
    target = load_target({"x280": "riscv_sifive_x280", "x60": "riscv_spacemit_x60"}[name])
    problem = Problem(CASES["ragged_everywhere"], layouts(target)[0])
    problem.check(problem.scheduled(target), target)


def test_other_decisions_are_exact():
    target = load_target("riscv_spacemit_x60")
    problem = Problem(((12,), 24, 96), dot_layouts(target)[0])
    listing = Listing()
    problem.scheduled(target, listing)
    assert listing.space is not None
    rows = listing.space.rows
    assert len(rows) > 8
    for row in (rows[1], rows[-1]):
        problem.check(problem.scheduled(target, TakeValues(row)), target)


@pytest.mark.parametrize("depth", [16, 384])
def test_most_instructions_multiply(depth):
    """Weights are widened in the loop, whole groups at once, and no sum is on the stack."""
    target = load_target("riscv_spacemit_x60")
    problem = Problem(((64,), depth, 64), dot_layouts(target)[0])
    text = assembly(problem.scheduled(target), target)
    loop = max(re.split(r"^\.LBB\w+:", text, flags=re.M), key=lambda part: part.count("vwmacc"))
    loop = loop.partition("\tbn")[0]
    instructions = re.findall(r"^\t([a-z]\S*)", loop, re.M)
    assert instructions.count("vwmacc.vx") >= 0.55 * len(instructions)
    assert "(sp)" not in loop
    assert not re.search(r"^\tvs\d?r?e?\d*\.v", loop, re.M)


def test_stored_weights_become_floats_in_groups():
    """Of few rows of floats: eight registers of them are made by two instructions."""
    target = load_target("riscv_spacemit_x60")
    shapes = {"a": ((1, 64), "float32"), "w": ((8, 64, 8), "int8"), "s": ((8, 8), "float32")}
    tensors = [te.placeholder(shape, dtype, name=n) for n, (shape, dtype) in shapes.items()]
    func = te.create_prim_func([*tensors, integer_ops.matmul_of_stored(*tensors, 64)])
    func, _ = schedules.apply(func.with_attr(CONSTANT_INPUTS, [1, 2]), target, take_default)
    text = assembly(func, target)
    products = len(re.findall(r"\tvfm(?:acc|add)\.vf", text))
    conversions = len(re.findall(r"\tv(?:sext\.|fw?cvt\.f\.x)", text))
    assert products > 16
    assert conversions <= products / 3


def test_even_tiles_of_more_rows_than_a_block():
    """Floats: tiles that divide the rows may be higher than those that a block was counted in."""
    target = load_target("riscv_spacemit_x60")
    shapes = (5, 64), (8, 64, 8)
    a, b = (te.placeholder(s, "float32", name=n) for s, n in zip(shapes, "ab", strict=True))
    func = te.create_prim_func([a, b, packed_ops.matmul(a, b, 64)])
    _, report = schedules.apply(func.with_attr(CONSTANT_INPUTS, [1]), target, take_default)
    assert report["template"] == "matmul"
