"""Every decision a template offers computes the same, and can be asked for by its values."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import tvm_ffi
from tvm import s_tir, tirx

import schedules
from compiler.codegen.graph import read_graph
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import Target, load_target
from schedules import registry
from schedules.choices import (
    MAX_DECISIONS,
    Listing,
    TakeValues,
    UnknownDecisionError,
    list_space,
    nearby,
)
from schedules.constants import CONSTANT_INPUTS, rearrangements
from schedules.tiles import RegisterTile
from tests import kernels
from tests.schedules.inner_loop_cases import Case, conv, product

TARGETS = (
    "host",
    "arm_cortex_a72",
    pytest.param("arm_cortex_a7", marks=pytest.mark.slow),
    pytest.param("riscv64", marks=pytest.mark.slow),
    pytest.param("riscv_spacemit_x60", marks=pytest.mark.slow),
)
CASES = {
    "conv_1x1": conv((24, 40), (9, 14), 1, 1),
    "conv_3x3": conv((16, 40), (12, 20), 3, 3, strides=[2, 2]),
    "conv_ragged": conv((5, 18), (7, 11), 3, 3),
    "grouped": conv((16, 32), (6, 8), 3, 3, group=2),
    "transposed": conv((8, 16), (6, 6), 4, 4, op="ConvTranspose", strides=[2, 2], pads=[1] * 4),
    "winograd": conv((64, 64), (20, 20), 3, 3),
    "depthwise": conv((16, 16), (12, 20), 3, 3, group=16),
    "depthwise_5x5": conv((20, 20), (9, 11), 5, 5, group=20, strides=[2, 2]),
    "matmul": product((24, 32), (32, 96)),
    "matmul_ragged": product((13, 17), (17, 50)),
    "attention": product((3, 16, 8), (3, 8, 24), constant=False),
}
TRIALS = 3


@dataclass(frozen=True)
class Tile:
    tile: RegisterTile
    wide: bool


def functions(case: Case, target: Target, folder) -> list[tirx.PrimFunc]:
    """What templates get for a case."""
    onnx.save(case.model(), folder / "model.onnx")
    module = optimize(import_model(folder / "model.onnx").module, target)
    names = dict.fromkeys(call.function for call in read_graph(module).calls)
    return [module[name].with_attr(CONSTANT_INPUTS, [1]) for name in names]


def space(func: tirx.PrimFunc, target: Target):
    listing = Listing()
    schedules.apply(func, target, listing)
    return listing.space


def result(func: tirx.PrimFunc, inputs: list[np.ndarray], target: Target) -> np.ndarray:
    """Of a scheduled function on inputs in their first order."""
    arrays = list(inputs)
    for position, wanted in rearrangements(func).items():
        arrays[position] = wanted.apply(arrays[position])
    return kernels.run(func, arrays, target)[-1]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_all_decisions_compute_the_same(case, target, tmp_path):
    target, rng = load_target(target), random.Random(case)
    chosen = [
        (func, offered)
        for func in functions(CASES[case], target, tmp_path)
        if (offered := space(func, target)) is not None
    ]
    assert chosen
    for func, offered in chosen:
        shapes = [[int(d) for d in p.ty.shape] for p in list(func.params)[:-1]]
        values = np.random.default_rng(0)
        inputs = [values.standard_normal(shape, np.float32) for shape in shapes]
        expected = kernels.run(func, inputs, target)[-1]  # plain loops
        for row in [offered.rows[0], *rng.sample(offered.rows, min(TRIALS, len(offered.rows)))]:
            scheduled, _ = schedules.apply(func, target, TakeValues(row))
            got = result(scheduled, inputs, target)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=str(row))


@pytest.mark.parametrize("case", ["conv_1x1", "winograd", "depthwise", "matmul"])
def test_templates_offer_a_choice(case, tmp_path):
    target = load_target("x86_64_v3")
    spaces = [space(func, target) for func in functions(CASES[case], target, tmp_path)]
    assert any(s is not None and 4 < len(s.rows) <= MAX_DECISIONS for s in spaces)


def test_the_default_is_the_first_decision_and_duplicates_are_left_out():
    one, two = Tile(RegisterTile(6, 2), True), Tile(RegisterTile(4, 2), False)
    offered, decisions = list_space(one, [two, one, two])
    assert offered.names == ("tile.rows", "tile.columns", "wide")
    assert offered.rows == ((6, 2, 1), (4, 2, 0))
    assert decisions == [one, two]
    assert offered.options(0) == [4, 6]


def test_values_show_in_the_trace(tmp_path):
    target = load_target("x86_64_v3")
    (func,) = functions(CASES["matmul"], target, tmp_path)
    row = space(func, target).rows[-1]
    choose = TakeValues(row)
    scheduled, report = schedules.apply(func, target, choose)
    trace = choose.schedule.trace
    sampled = [inst for inst in trace.insts if inst.kind.name == "SampleCategorical"]
    assert [int(inst.attrs[0][int(trace.decisions[inst])]) for inst in sampled] == list(row)
    replay = s_tir.Schedule(func)
    trace.apply_to_schedule(replay, remove_postproc=False)
    assert tvm_ffi.structural_equal(replay.mod["main"].body, scheduled.body, map_free_vars=True)
    assert str(row[0]) in report["decision"]


def test_a_decision_that_is_not_offered_is_refused(tmp_path):
    target = load_target("x86_64_v3")
    (func,) = functions(CASES["matmul"], target, tmp_path)
    with pytest.raises(UnknownDecisionError, match=r"'tile\.rows': 99"):
        schedules.apply(func, target, TakeValues((99, 1, 1)))


def test_every_template_with_a_choice_has_a_version():
    names = {t.__module__.rpartition(".")[2] for t in registry.TEMPLATES + registry.FAMILIES}
    # Some report themselves as conv2d_integer or matmul_integer, and Winograd's has two names.
    names |= {"winograd_integer"}
    others = {"generic", "conv2d_widening", "matmul_widening"}
    others |= {"conv2d_integer_pairs", "matmul_integer_pairs"}
    assert names - others == set(registry.VERSIONS)


def test_nearby_prices_nothing_before_it_is_read():
    def fail(decision):
        raise AssertionError

    nearby(fail, [1, 2], 4, 2.0)
    assert list(nearby(lambda d: d, [5, 3, 4, 9], 3, 1.5)) == [3, 4]
