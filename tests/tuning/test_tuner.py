"""Where the trials go, what counts as a winner, and what the log holds afterwards."""

from __future__ import annotations

import math

import pytest

from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from compiler.tuning.candidates import Request
from compiler.tuning.fleet import MOST_LOSSES, Fleet
from compiler.tuning.log import Fingerprint, TuningLog
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.lookup import best_record
from compiler.tuning.measure import DeviceLostError, Measurement, MeasurementError
from compiler.tuning.tasks import extract
from compiler.tuning.tuner import TRIALS_A_TASK, Tuner
from schedules.registry import VERSIONS
from tests.tuning.models import FakeBuilders, small_network

TARGET = load_target("x86_64_v3")
LOCAL = Fingerprint("local", {}, dict(VERSIONS))


class FakeDevice:
    """Times are a function of the decision."""

    name = "board"

    def __init__(self, seconds, error=lambda values: 0.0):
        self.seconds, self.error = seconds, error
        self.measured = []
        self.closed = False

    def measure(self, candidate, reference):
        self.measured.append(candidate.values)
        seconds = self.seconds(candidate.values)
        if isinstance(seconds, Exception):
            raise seconds
        return Measurement((seconds,), self.error(candidate.values))

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = small_network(tmp_path_factory.mktemp("model") / "small.onnx")
    return extract(optimize(import_model(path).module, TARGET), TARGET)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("compiler.tuning.fleet.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("compiler.tuning.fleet.PATIENCE_SECONDS", 0.1)


def tune(folder, tasks, devices, trials=1000, builders=None, fingerprint=LOCAL):
    events = []
    fleet = Fleet(devices, lambda text: events.append({"event": "note", "text": text}))
    builders = builders or FakeBuilders()
    with LogWriter(folder) as log:
        tuner = Tuner(TARGET, tasks, log, fleet, builders, fingerprint, events.append)
        tuner.run(trials)
    return tuner, events


def by_sum(values):
    """More is faster."""
    return 1e-3 / (1 + sum(values))


def test_better_decisions_are_found_and_kept(tasks, tmp_path):
    device = FakeDevice(by_sum)
    tuner, _ = tune(tmp_path, tasks, [device])
    log = TuningLog(tmp_path)
    for progress in tuner.tasks:
        best = best_record(log, log.of(progress.task.key))
        assert best.values == progress.search.best_values
        assert best.best <= by_sum(progress.task.space.rows[0])
    assert sum(p.search.best < p.default_seconds for p in tuner.tasks) >= 2


def test_a_second_run_measures_nothing_new(tasks, tmp_path):
    tune(tmp_path, tasks, [FakeDevice(by_sum)])
    before = len(TuningLog(tmp_path).records)
    device = FakeDevice(by_sum)
    tuner, _ = tune(tmp_path, tasks, [device], trials=0)
    assert device.measured == []
    assert tuner.trials == 0
    assert len(TuningLog(tmp_path).records) == before


def test_an_interrupted_run_goes_on(tasks, tmp_path):
    class Interrupted(FakeDevice):
        def measure(self, candidate, reference):
            if len(self.measured) == 10:
                raise KeyboardInterrupt
            return super().measure(candidate, reference)

    first = Interrupted(by_sum)
    with LogWriter(tmp_path) as log:
        tuner = Tuner(TARGET, tasks, log, OneAtATime(first), FakeBuilders(), LOCAL, print)
        with pytest.raises(KeyboardInterrupt):
            tuner.run(100)
    done = {(r.workload, r.values) for r in TuningLog(tmp_path).records}
    assert len(done) >= len(tasks)
    second = FakeDevice(by_sum)
    tuner, _ = tune(tmp_path, tasks, [second])
    assert all(len(p.search.measured) > 0 for p in tuner.tasks)


class OneAtATime:
    """A fleet in the caller's thread."""

    def __init__(self, device):
        self.device = device

    def measure(self, default, candidates):
        for candidate in candidates:
            yield candidate, self.device.measure(candidate, candidate is default)


def test_wrong_results_never_win(tasks, tmp_path):
    def error(values):
        return 0.0 if values in [task.space.rows[0] for task in tasks] else 0.5

    tuner, events = tune(tmp_path, tasks, [FakeDevice(by_sum, error)])
    for progress in tuner.tasks:
        assert progress.search.best_values == progress.task.space.rows[0]
    assert any("results differ" in e.get("reason", "") for e in events)
    log = TuningLog(tmp_path)
    assert all(
        r.best == math.inf or r.values in [t.space.rows[0] for t in tasks] for r in log.records
    )


def test_not_a_number_never_wins(tasks, tmp_path):
    defaults = [task.space.rows[0] for task in tasks]
    device = FakeDevice(by_sum, lambda values: 0.0 if values in defaults else math.nan)
    tuner, _ = tune(tmp_path, tasks, [device])
    assert all(p.search.best_values == p.task.space.rows[0] for p in tuner.tasks)


def test_chance_does_not_make_a_winner(tasks, tmp_path):
    """A decision that is fast once and slow when it is confirmed."""
    seen = set()

    def lucky(values):
        first = values not in seen
        seen.add(values)
        if values in defaults:
            return 1.0
        return 0.5 if first else 2.0

    defaults = [task.space.rows[0] for task in tasks]
    tuner, _ = tune(tmp_path, tasks[:1], [FakeDevice(lucky)], trials=4)
    log = TuningLog(tmp_path)
    assert best_record(log, log.of(tasks[0].key)).values == tasks[0].space.rows[0]
    assert tuner.tasks[0].search.best_values == tasks[0].space.rows[0]


def test_counts_are_not_repeated(tasks, tmp_path):
    emulated = Fingerprint("emulated", {}, dict(VERSIONS))
    device = FakeDevice(by_sum)
    _, events = tune(tmp_path, tasks[:1], [device], trials=4, fingerprint=emulated)
    assert len(device.measured) == len(set(device.measured))
    assert not any(e["event"] == "confirmed" for e in events)


def test_candidates_stay_tensorised(tasks, tmp_path):
    rows = tasks[0].space.rows
    plain, device = rows[-3:], FakeDevice(by_sum)
    tuner, events = tune(tmp_path, tasks[:1], [device], builders=FakeBuilders(plain=plain))
    (progress,) = tuner.tasks
    kept, lost = progress.tensorized
    assert not set(plain) & set(device.measured)
    assert lost == sum("does without dot" in e.get("reason", "") for e in events) > 0
    assert kept == len(set(device.measured)) - 1
    assert progress.search.best_values not in plain


def test_same_code_is_measured_once(tasks, tmp_path):
    rows = tasks[0].space.rows
    device = FakeDevice(by_sum)
    builders = FakeBuilders(same=dict.fromkeys(rows[1:], rows[0]))
    tuner, events = tune(tmp_path, tasks[:1], [device], builders=builders)
    assert set(device.measured) == {rows[0]}
    assert sum(e.get("reason") == "same code" for e in events) > 3
    assert tuner.tasks[0].search.best == by_sum(rows[0])


def test_failures_cost_themselves(tasks, tmp_path):
    task = max(tasks, key=lambda t: len(t.space.rows))
    rows = task.space.rows
    builders = FakeBuilders(broken=rows[1::3])

    def seconds(values):
        return MeasurementError("crashed") if values in rows[2::3] else by_sum(values)

    tuner, events = tune(tmp_path, [task], [FakeDevice(seconds)], builders=builders)
    assert tuner.tasks[0].search.best_values in rows[0::3]
    assert {"does not compile", "crashed"} <= {e.get("reason") for e in events}


def test_a_default_that_does_not_build_ends_its_task_only(tasks, tmp_path):
    broken = FakeBuilders(broken=[tasks[0].space.rows[0]])
    tuner, _ = tune(tmp_path, tasks, [FakeDevice(by_sum)], builders=broken)
    assert any(p.search.best < math.inf for p in tuner.tasks[1:])


def test_trials_are_a_limit(tasks, tmp_path):
    device = FakeDevice(by_sum)
    tuner, _ = tune(tmp_path, tasks, [device], trials=20)
    searched = sum(len(p.search.measured) for p in tuner.tasks)
    assert searched <= 20


def test_trials_go_where_the_time_is(tasks, tmp_path):
    heavy = max(tasks, key=lambda t: len(t.space.rows))

    def seconds(values):
        return by_sum(values) * (1000 if values in heavy.space.rows else 1)

    names = {row for t in tasks if t is not heavy for row in t.space.rows}
    if set(heavy.space.rows) & names:
        pytest.skip("decisions of the tasks look the same")
    tuner, _ = tune(tmp_path, tasks, [FakeDevice(seconds)], trials=len(tasks) + 24)
    counts = {p.task.key: len(p.search.measured) for p in tuner.tasks}
    assert max(counts, key=counts.get) == heavy.key
    assert counts[heavy.key] <= TRIALS_A_TASK


def test_a_flat_model_stops_early(tasks, tmp_path):
    tuner, _ = tune(tmp_path, tasks, [FakeDevice(lambda values: 1e-3)])
    assert tuner.trials < sum(min(TRIALS_A_TASK, len(t.space.rows)) for t in tasks)


def test_the_end_can_be_foreseen(tasks, tmp_path):
    """Where no round gains anything, from the moment that all defaults are known."""
    _, events = tune(tmp_path, tasks, [FakeDevice(lambda values: 1e-3)])
    left = [e["trials_left"] for e in events if e["event"] == "measured"]
    assert left[: len(tasks) - 1] == [None] * (len(tasks) - 1)
    spent = len(left) - len(tasks)
    assert spent / 2 <= left[len(tasks) - 1] <= 2 * spent
    assert min(left[len(tasks) - 1 :]) < 8
    _, events = tune(tmp_path / "short", tasks, [FakeDevice(by_sum)], trials=len(tasks) + 5)
    assert next(e["trials_left"] for e in events if e.get("trials_left") is not None) <= 5


def test_a_lost_board_does_not_stop_the_others(tasks, tmp_path):
    calls = []

    def dies(values):
        calls.append(values)
        return DeviceLostError("gone") if len(calls) > 3 else by_sum(values)

    good = FakeDevice(by_sum)
    bad = FakeDevice(dies)
    bad.name = "lost board"
    tuner, events = tune(tmp_path, tasks, [bad, good])
    assert any("lost board does not answer" in e.get("text", "") for e in events)
    assert all(p.search.measured for p in tuner.tasks)


def test_a_board_that_comes_back_goes_on(tasks, tmp_path):
    calls = []

    def restarts(values):
        calls.append(values)
        return DeviceLostError("gone") if 3 < len(calls) < 7 else by_sum(values)

    tuner, events = tune(tmp_path, tasks[:1], [FakeDevice(restarts)])
    assert [e["text"] for e in events if e["event"] == "note"] == ["gone; trying again"]
    assert tuner.tasks[0].search.best < math.inf
    assert not any(e["event"] == "skipped" for e in events)


def test_a_candidate_that_takes_boards_down_is_given_up(tasks):
    rows = tasks[0].space.rows[:3]
    default, killer, good = FakeBuilders().build(
        [Request(tasks[0].as_json, tasks[0].n_inputs, TARGET, row) for row in rows]
    )
    device = FakeDevice(lambda row: DeviceLostError("gone") if row == rows[1] else by_sum(row))
    measured = Fleet([device], print).measure(default, [default, killer, good])
    outcomes = {candidate.values: found for candidate, found in measured}
    assert device.measured.count(rows[1]) == MOST_LOSSES
    assert outcomes.pop(rows[1]) == f"{MOST_LOSSES} times the device went away with it"
    assert {type(found) for found in outcomes.values()} == {Measurement}


def test_a_fault_of_a_device_is_no_endless_wait(tasks, tmp_path):
    def broken(values):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        tune(tmp_path, tasks, [FakeDevice(broken)])


def test_the_last_lost_board_is_an_error_and_keeps_the_log(tasks, tmp_path):
    calls = []

    def dies(values):
        calls.append(values)
        return DeviceLostError("gone") if len(calls) > 5 else by_sum(values)

    with pytest.raises(EdgeccError, match="does not answer any more"):
        tune(tmp_path, tasks, [FakeDevice(dies)])
    assert len(TuningLog(tmp_path).records) >= 2


def test_records_of_another_template_version_are_left_out(tasks, tmp_path):
    old = Fingerprint("local", {}, dict.fromkeys(VERSIONS, -1))
    tune(tmp_path, tasks, [FakeDevice(by_sum)], fingerprint=old)
    device = FakeDevice(by_sum)
    tune(tmp_path, tasks, [device], trials=len(tasks))
    assert len(device.measured) >= len(tasks)
