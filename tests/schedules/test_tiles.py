"""The cost model's choices on known caches."""

from dataclasses import replace

import pytest

from compiler.target import load_target
from schedules.tiles import TileProblem, choose_depth, choose_register_tile

TARGET = load_target("x86_64_v3")


@pytest.mark.parametrize(
    ("panel", "chunks", "depth"),
    [
        (256 << 10, 64, 0),  # half of L2: all at once
        (442368, 64, 8),  # 512 channels, 3x3, 3 vectors of columns
        (442368, 61, 1),  # a prime number of chunks
        (64 << 20, 2, 0),  # no cut is small enough
    ],
)
def test_weights_of_a_pass_stay_in_l2(panel, chunks, depth):
    target = replace(TARGET, caches=replace(TARGET.caches, l2=512 << 10))
    assert choose_depth(target, panel, chunks) == depth


def test_without_l2_the_sum_is_taken_at_once():
    target = replace(TARGET, caches=replace(TARGET.caches, l2=0))
    assert choose_depth(target, 1 << 30, 64) == 0


def test_weights_that_stay_for_all_rows_fit_beside_the_tile():
    target = load_target("arm_cortex_a7")
    problem = TileProblem(rows=64, columns=16, width=4, depth=8)
    assert choose_register_tile(target, problem).columns > 1
    kept = replace(problem, kept_steps=8)
    for tile in kept.tiles(target):
        assert tile.columns * (tile.rows + 8) < target.vector.registers
    assert choose_register_tile(target, kept).rows > 1
