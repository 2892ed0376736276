"""Logs are MetaSchedule's, survive a process that dies, and have one writer."""

from __future__ import annotations

import json
import os
import random

import pytest
import tvm
from tvm.s_tir import meta_schedule as ms

from compiler.codegen.graph import read_graph
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from compiler.tuning.candidates import Request, build
from compiler.tuning.log import RECORDS, WORKLOADS, Fingerprint, TuningLog, compact
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.lookup import best_record
from compiler.tuning.tasks import extract, workload, workload_as_json
from tests.tuning.models import small_network

LOCAL = Fingerprint("local", {"clock_ghz": 2.0}, {"conv2d": 1})
EMULATED = Fingerprint("emulated", {"clock_ghz": 2.0}, {"conv2d": 1})
RECORD = {
    "trace": [[["SampleCategorical", [], [[3, 4], [0.5, 0.5]], ["v0"]]], [[0, 1]]],
    "target": {"kind": "llvm"},
    "arguments": [],
    "template": "conv2d",
}


def write(folder, entries, fingerprint=LOCAL):
    with LogWriter(folder) as log:
        log.add_fingerprint(fingerprint)
        for key, seconds in entries:
            log.add(key, "module", RECORD, (4,), seconds, fingerprint)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, [("a", [2e-3, 1e-3]), ("b", []), ("a", [3e-3])])
    log = TuningLog(tmp_path)
    assert [r.values for r in log.of("a")] == [(4,), (4,)]
    assert [r.best for r in log.of("a")] == [1e-3, 3e-3]
    assert log.of("b")[0].best == float("inf")
    assert log.of("c") == []
    assert log.fingerprints[log.of("a")[0].fingerprint] == LOCAL
    assert log.repaired == []


@pytest.mark.parametrize("name", [RECORDS, WORKLOADS])
def test_a_torn_last_line_is_cut_off(name, tmp_path):
    write(tmp_path, [("a", [1.0]), ("b", [2.0])])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-7])
    log = TuningLog(tmp_path)
    assert [r.best for r in log.records] == [1.0]
    assert any("torn last line" in line for line in log.repaired)
    with LogWriter(tmp_path) as log:
        assert any("cut off" in line for line in log.repaired)
    write(tmp_path, [("c", [4.0])])
    log = TuningLog(tmp_path)
    assert [r.best for r in log.of("c")] == [4.0]
    assert [r.best for r in log.of("a")] == [1.0]
    assert log.repaired == []


def test_any_prefix_of_a_log_loads(tmp_path):
    """Whatever a killed process leaves: a prefix of each file, the workload before its record."""
    write(tmp_path, [("a", [1.0]), ("a", [2.0])])
    whole = (tmp_path / RECORDS).read_bytes()
    for end in random.Random(0).sample(range(len(whole)), 40):
        (tmp_path / RECORDS).write_bytes(whole[:end])
        assert len(TuningLog(tmp_path).records) == whole[:end].count(b"\n")


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    write(tmp_path, [("a", [1.0]), ("a", [2.0])])
    path = tmp_path / RECORDS
    path.write_bytes(b"{oops\n" + path.read_bytes())
    with pytest.raises(EdgeccError, match="line 1 is not JSON"):
        TuningLog(tmp_path)


def test_one_writer_at_a_time(tmp_path):
    with LogWriter(tmp_path):
        with pytest.raises(EdgeccError, match="another process is tuning into it"):
            LogWriter(tmp_path)
        TuningLog(tmp_path)  # reading is free
    with LogWriter(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EdgeccError, match="can't write"):
        LogWriter(tmp_path / "logs")


def test_measured_records_beat_emulated_ones(tmp_path):
    write(tmp_path, [("a", [1.0])], EMULATED)
    write(tmp_path, [("a", [5.0])], LOCAL)
    log = TuningLog(tmp_path)
    assert best_record(log, log.of("a")).best == 5.0


def test_the_latest_measurement_of_a_decision_counts(tmp_path):
    write(tmp_path, [("a", [1.0]), ("a", [5.0])])
    log = TuningLog(tmp_path)
    assert best_record(log, log.of("a")).best == 5.0


def test_rewriting_keeps_what_is_asked_for(tmp_path):
    write(tmp_path, [("a", [1.0]), ("b", [2.0]), ("a", [3.0])])
    with LogWriter(tmp_path) as log:
        log.rewrite([r for r in log.records if r.best > 1.5])
    log = TuningLog(tmp_path)
    assert [r.best for r in log.of("a")] == [3.0]
    assert [r.best for r in log.of("b")] == [2.0]


@pytest.mark.parametrize("target", ["x86_64_v3", "arm_cortex_a72"])
def test_meta_schedule_reads_and_replays_the_records(target, tmp_path):
    target = load_target(target)
    module = optimize(import_model(small_network(tmp_path / "small.onnx")).module, target)
    with LogWriter(tmp_path / "log") as log:
        log.add_fingerprint(LOCAL)
        for task in extract(module, target):
            values = task.space.rows[-1]
            built = build(Request(task.as_json, task.n_inputs, target, values))
            text = compact(workload_as_json(task.func)[1])
            log.add(task.key, text, built.record, values, [1e-3], LOCAL)
            assert log.of(task.key)[0].values == values
    database = ms.database.JSONDatabase(work_dir=str(tmp_path / "log"))
    assert len(database) == len(log.records) >= 3
    for task in extract(module, target):
        found = database.query_tuning_record(
            workload(task.func), tvm.target.Target(target.tvm()), "main"
        )
        assert str(found.target.tag) == f"{LOCAL.identity}/{task.template}"
        assert database.query_schedule(workload(task.func), tvm.target.Target(target.tvm()), "main")
    names = {call.function for call in read_graph(module).calls}
    assert len(extract(module, target)) <= len(names)


def test_compacting_only_removes_space(tmp_path):
    target = load_target("x86_64_v3")
    module = optimize(import_model(small_network(tmp_path / "small.onnx")).module, target)
    func = extract(module, target)[0].func
    key, text = workload_as_json(func)
    small = compact(text)
    assert len(small) < 0.7 * len(text)
    again = ms.database.Workload.from_json([key, small])
    assert json.dumps(compact(str(again.as_json()[1]))) == json.dumps(small)
