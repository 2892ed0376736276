"""A short version of scripts/soak/kill_tuner.py."""

from __future__ import annotations

import pytest

from scripts.soak.kill_tuner import soak


@pytest.mark.slow
def test_killed_processes_lose_and_leave_nothing(tmp_path):
    assert soak(4, seed=1, folder=tmp_path).total() == 4
