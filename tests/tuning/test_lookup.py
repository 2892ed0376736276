"""Builds take what the tuner found, and say so."""

from __future__ import annotations

import json

import pytest

import compiler
from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from compiler.tuning.candidates import Request, build
from compiler.tuning.log import Fingerprint, compact
from compiler.tuning.log_writer import LogWriter
from compiler.tuning.lookup import similar_targets
from compiler.tuning.manage import export
from compiler.tuning.tasks import extract, workload_as_json
from schedules.registry import VERSIONS
from tests.tuning.models import small_network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("model") / "small.onnx")


def log_last_decisions(model, folder, name, versions=VERSIONS, runner="local"):
    """A log that says that each template's last decision is the fastest."""
    target = load_target(name)
    session = Fingerprint(runner, {}, dict(versions))
    chosen = {}
    with LogWriter(folder / name) as log:
        log.add_fingerprint(session)
        for task in extract(optimize(import_model(model).module, target), target):
            for row, seconds in ((task.space.rows[0], 2e-3), (task.space.rows[-1], 1e-3)):
                built = build(Request(task.as_json, task.n_inputs, target, row))
                module = compact(workload_as_json(task.func)[1])
                log.add(task.key, module, built.record, row, [seconds], session)
            chosen[task.template] = built.decision
    return chosen


def operators(result):
    return {row["template"]: row for row in result.receipt["operators"]}


def test_a_build_takes_the_fastest_records(model, tmp_path):
    chosen = log_last_decisions(model, tmp_path / "logs", "x86_64_v3")
    result = compiler.build(model, "x86_64_v3", tmp_path / "out", tuning_logs=[tmp_path / "logs"])
    assert result.verification.status == "passed"
    rows = operators(result)
    assert rows["conv2d"]["decision"] == chosen["conv2d"]
    assert rows["conv2d"]["tuned"] == "measured"
    plain = compiler.build(model, "x86_64_v3", tmp_path / "plain", tuning_logs=())
    assert operators(plain)["conv2d"]["decision"] != chosen["conv2d"]
    assert result.manifest["tuning_logs"] is not None
    assert plain.manifest["tuning_logs"] is None


def test_an_archive_serves_as_a_log(model, tmp_path):
    chosen = log_last_decisions(model, tmp_path / "logs", "x86_64_v3")
    (tmp_path / "shipped").mkdir()
    export(tmp_path / "logs", tmp_path / "shipped" / "x86_64_v3.tar.gz")
    result = compiler.build(
        model, "x86_64_v3", tmp_path / "out", tuning_logs=[tmp_path / "shipped"], verify=False
    )
    assert operators(result)["conv2d"]["decision"] == chosen["conv2d"]
    assert operators(result)["conv2d"]["tuned"] == "measured"


def test_a_broken_archive_is_named(model, tmp_path):
    (tmp_path / "x86_64_v3.tar.gz").write_bytes(b"no archive")
    with pytest.raises(EdgeccError, match=r"x86_64_v3\.tar\.gz can't be read"):
        compiler.build(model, "x86_64_v3", tmp_path / "out", tuning_logs=[tmp_path], verify=False)


def test_records_of_an_old_template_are_left_out(model, tmp_path):
    old = dict.fromkeys(VERSIONS, 0)
    chosen = log_last_decisions(model, tmp_path / "logs", "x86_64_v3", old)
    result = compiler.build(
        model, "x86_64_v3", tmp_path / "out", tuning_logs=[tmp_path / "logs"], verify=False
    )
    rows = operators(result)
    assert rows["conv2d"]["tuned"] == "outdated"
    assert rows["conv2d"]["decision"] != chosen["conv2d"]


def test_a_similar_target_stands_in(model, tmp_path):
    """Only where the result is verified."""
    log_last_decisions(model, tmp_path / "logs", "arm_cortex_a53")
    logs = [tmp_path / "logs"]
    near = compiler.build(model, "arm_cortex_a55", tmp_path / "near", tuning_logs=logs)
    far = compiler.build(model, "arm_cortex_a55", tmp_path / "far", tuning_logs=logs, verify=False)
    origins = {row.get("tuned") for row in operators(near).values()}
    if near.verification.status == "passed":
        assert "measured on arm_cortex_a53" in origins
    assert {row.get("tuned") for row in operators(far).values()} == {None}


def test_similar_targets_have_the_same_registers():
    assert similar_targets(load_target("arm_cortex_a55"))[0] == "arm_cortex_a53"
    assert set(similar_targets(load_target("arm_cortex_a72"))) == {
        "arm_cortex_a53",
        "arm_cortex_a55",
        "arm_cortex_a76",
        "arm_neoverse_n1",
        "arm_neoverse_n2",
    }
    assert similar_targets(load_target("arm_cortex_a7")) == []


def test_tuning_and_building_from_the_command_line(model, edgecc, tmp_path):
    tuned = edgecc("tune", model, "--trials", "4", "--threads", "1", "--json")
    assert tuned.returncode == 0, tuned.stderr
    events = [json.loads(line) for line in tuned.stdout.splitlines()]
    assert {"start", "measured", "result"} <= {event["event"] for event in events}
    result = events[-1]
    assert result["best_ms"] <= result["default_ms"]
    again = edgecc("tune", model, "--trials", "1", "--threads", "1")
    assert again.returncode == 0, again.stderr
    assert "gain" in again.stdout
    built = edgecc("build", model, "-o", "out")
    assert "tuned" in built.stdout
    assert "measured" in built.stdout
    assert "measured" not in edgecc("build", model, "-o", "out", "--untuned").stdout


def test_wrong_options(model, edgecc):
    def complaint(*options):
        done = edgecc("tune", model, *options)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "exclude each other" in complaint("--runner", "emulated", "--ssh", "board")
    assert "belong together" in complaint("--tracker", "localhost:9190")
    assert "not known" in complaint("--runner", "fast")
    assert "can't measure arm_cortex_a72 here" in complaint("--target", "arm_cortex_a72")
