"""Candidates are built elsewhere: in processes that may die, and on a cluster."""

from __future__ import annotations

import os
import signal
import time

import pytest

from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from compiler.tuning import builders
from compiler.tuning.builders import DaskBuilders, LocalBuilders
from compiler.tuning.candidates import Candidate, Request
from compiler.tuning.tasks import extract
from compiler.tuning.workers import WorkerDiedError, WorkerPool
from tests.tuning.models import small_network

TARGET = load_target("x86_64_v3")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = small_network(tmp_path_factory.mktemp("model") / "small.onnx")
    return extract(optimize(import_model(path).module, TARGET), TARGET)[0]


def requests(task, rows):
    return [Request(task.as_json, task.n_inputs, TARGET, row) for row in rows]


@pytest.fixture(scope="module")
def pool():
    pool = LocalBuilders(2)
    yield pool
    pool.close()


def test_candidates_come_in_order(pool, task):
    rows = task.space.rows[:3]
    built = list(pool.build(requests(task, rows)))
    assert [c.values for c in built] == list(rows)
    assert all(c.library.startswith(b"\x7fELF") for c in built)


def test_the_same_request_gives_the_same_code(pool, task):
    row = task.space.rows[0]
    first, second = pool.build(requests(task, [row, row]))
    assert first.digest == second.digest


def test_what_cannot_be_built_says_why(pool, task):
    good, bad = pool.build(requests(task, [task.space.rows[0], (99, 99, 99, 99)]))
    assert isinstance(good, Candidate)
    assert bad.startswith("no decision")


def kill_worker():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_costs_one_candidate(pool, task):
    future = pool._pool.schedule(kill_worker)
    assert isinstance(builders._outcome(future), str)
    (built,) = pool.build(requests(task, task.space.rows[:1]))
    assert isinstance(built, Candidate)


def test_an_idle_worker_that_is_killed_costs_nothing(task):
    pool = LocalBuilders(1)
    try:
        os.kill(pool._pool.schedule(os.getpid).result(), signal.SIGKILL)
        built = list(pool.build(requests(task, task.space.rows[:2])))
        assert all(isinstance(one, Candidate) for one in built)
    finally:
        pool.close()


def test_a_worker_that_hangs_costs_one_candidate(pool, task):
    future = pool._pool.schedule(time.sleep, (100,), timeout=0.2)
    assert "not built in" in builders._outcome(future)
    (built,) = pool.build(requests(task, task.space.rows[:1]))
    assert isinstance(built, Candidate)


def test_closing_leaves_no_worker(task):
    pool = LocalBuilders(1)
    pid = pool._pool.schedule(os.getpid).result()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_closing_waits_for_a_call_as_long_as_was_said():
    """TVM's RPC server does not survive a client that is killed in a call."""
    outcomes = []
    for patience in (30.0, 0.0):
        pool = WorkerPool(1, patience)
        pool.schedule(os.getpid).result()
        call = pool.schedule(time.sleep, (2.0,))
        time.sleep(0.5)
        pool.close()
        outcomes.append(call.exception())
    assert outcomes[0] is None
    assert isinstance(outcomes[1], WorkerDiedError)


@pytest.mark.slow
def test_a_cluster_builds_the_same_code(pool, task, record_property):
    """And as fast; -rP and the report of --junitxml show both times."""
    distributed = pytest.importorskip("distributed")
    wanted = requests(task, task.space.rows[:10])

    def timed(builder, name):
        list(builder.build(wanted[:2]))  # workers import TVM
        started = time.monotonic()
        built = list(builder.build(wanted[2:]))
        seconds = time.monotonic() - started
        record_property(f"{name} seconds", seconds)
        print(f"{len(built)} candidates, {name}: {seconds:.2f} s")
        return [candidate.digest for candidate in built]

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_port=0
    ) as cluster:
        far = DaskBuilders(cluster.scheduler_address)
        digests = timed(far, "Dask, 2 workers")
        far.close()
    assert digests == timed(pool, pool.name)


def test_no_cluster_answers(monkeypatch):
    distributed = pytest.importorskip("distributed")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout=1))
    with pytest.raises(EdgeccError, match="no Dask scheduler answers"):
        DaskBuilders("tcp://127.0.0.1:1")
