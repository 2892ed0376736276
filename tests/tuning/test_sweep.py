"""The search against recorded times of whole spaces, from scripts/bench/sweep.py on AVX2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.tuning.search import Search
from compiler.tuning.tuner import BATCH, FINISHING_ROUNDS, TRIALS_A_TASK
from schedules.choices import Space

SWEEP = json.loads(Path(__file__).with_name("sweep.json").read_text(encoding="ascii"))


def best_after(space: Space, seconds: dict, trials: int, seed: int) -> float:
    """Rounds of the search, then steps to neighbours, as the tuner does."""
    search, used = Search(space, seed), 0
    while used < trials - BATCH and (rows := search.propose(BATCH)):
        search.observe([(row, seconds[row]) for row in rows])
        used += len(rows)
    for _ in range(FINISHING_ROUNDS):
        rows = search.neighbours()[: trials - used]
        search.observe([(row, seconds[row]) for row in rows])
        used += len(rows)
    assert len(search.measured) == used <= trials
    return search.best


@pytest.mark.parametrize("name", SWEEP)
def test_48_trials_reach_97_percent_of_the_best(name):
    rows = tuple(map(tuple, SWEEP[name]["rows"]))
    seconds = dict(zip(rows, SWEEP[name]["seconds"], strict=True))
    space = Space(tuple(SWEEP[name]["names"]), rows)
    for seed in range(3):
        assert min(seconds.values()) / best_after(space, seconds, TRIALS_A_TASK, seed) >= 0.97


def test_defaults_are_near_the_best():
    """Before any search: the templates' own decisions."""
    for name, record in SWEEP.items():
        assert record["seconds"][0] <= 1.2 * min(record["seconds"]), name


def test_the_sweep_covers_each_family():
    families = ("conv", "depthwise", "winograd", "dense", "attention")
    counts = [sum(name.startswith(family) for name in SWEEP) for family in families]
    assert counts == [4, 2, 2, 2, 2]
