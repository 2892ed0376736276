"""A short version of scripts/soak/kill_tuner.py."""

from __future__ import annotations

import pytest

from scripts.soak.kill_tuner import soak

pytest.importorskip("cloudpickle")  # TVM's RPC server starts its workers with it


@pytest.mark.slow
@pytest.mark.parametrize("share_rpc", [0.0, 1.0], ids=["here", "over RPC"])
def test_killed_processes_lose_and_leave_nothing(share_rpc, tmp_path):
    assert soak(4, seed=1, folder=tmp_path, share_rpc=share_rpc).total() == 4
