"""The benchmark against other engines: its structure and its refusals; no time is checked."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.bench import peers
from scripts.bench.engines import ENGINES
from scripts.bench.engines.ncnn import _without_casts
from scripts.bench.measure import Plan, measure
from scripts.bench.report import approximations
from scripts.bench.results import Entry, Row, geometric_mean, pair_ratio, relative_error, to_json
from scripts.bench.suite import SUITE, write_network

from .peers_engines import Crashing, Missing, Unable, Wrong

ROOT = Path(__file__).resolve().parents[1]
QUICK = Plan(threads=(1,), rounds=1, seconds=0.01)


@pytest.fixture(scope="module")
def ds_cnn(tmp_path_factory) -> Path:
    return write_network("ds_cnn", tmp_path_factory.mktemp("peers") / "ds_cnn")


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/bench/peers.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_table_and_report(tmp_path):
    done = _run(
        *("--models", "ds_cnn", "--engines", "edgecc", "onnxruntime", "--threads", "1"),
        *("--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    header = next(line for line in done.stdout.splitlines() if "network" in line)
    titles = ["edgecc", "ONNX Runtime", "best peer", "edgecc / best", "edgecc / ONNX Runtime"]
    positions = [header.index(title) for title in titles]
    assert positions == sorted(positions)
    line = next(line for line in done.stdout.splitlines() if "ds_cnn" in line)
    assert line.count("(") == 2  # two engines with a minimum
    assert "geometric mean" in done.stdout
    assert "not timed" not in done.stdout
    document = (tmp_path / "results.md").read_text().splitlines()
    assert document[0] == "1 thread: median (minimum) in ms"
    assert any(line.startswith("| ds_cnn ") and line.endswith("|") for line in document)
    report = json.loads((tmp_path / "results.json").read_text())
    (result,) = report["results"]
    assert (result["model"], result["threads"]) == ("ds_cnn", 1)
    for engine in ("edgecc", "onnxruntime"):
        entry = result["engines"][engine]
        assert entry["relative_error"] <= 1e-4
        assert entry["runs"] >= 3
        assert 0 < entry["min_ms"] <= entry["median_ms"]
        assert report["engines"][engine]
    ratio = result["engines"]["edgecc"]["median_ms"] / result["engines"]["onnxruntime"]["median_ms"]
    assert result["edgecc_to_onnxruntime"] == pytest.approx(ratio)
    assert result["edgecc_to_best_peer"] == pytest.approx(ratio)


def test_json_on_stdout(tmp_path):
    done = _run(
        *("--models", "ds_cnn", "--engines", "onnxruntime", "--threads", "1", "--json"),
        *("--rounds", "2", "--seconds", "0.01", "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert len(result["engines"]["onnxruntime"]["round_medians_ms"]) == 2
    assert result["edgecc_to_best_peer"] is None


def test_wrong_output_is_not_timed(ds_cnn):
    engines = [ENGINES["onnxruntime"], Wrong]
    (row,) = measure("ds_cnn", ds_cnn, engines, QUICK, lambda text: None)
    assert row.entries["onnxruntime"].timed
    wrong = row.entries["wrong"]
    assert wrong.wrong
    assert not wrong.timed
    # 0.01 over the largest of twelve probabilities
    assert 0.01 <= wrong.error <= 0.12
    assert "relative error" in wrong.refused
    assert to_json([row], {})["results"][0]["engines"]["wrong"]["wrong"]


def test_failing_engines_do_not_stop_the_others(ds_cnn):
    engines = [Unable, Crashing, ENGINES["onnxruntime"]]
    (row,) = measure("ds_cnn", ds_cnn, engines, QUICK, lambda text: None)
    assert row.entries["onnxruntime"].timed
    assert row.entries["unable"].refused.endswith("NotImplementedError: no operator Softmax")
    assert "SIGABRT" in row.entries["crashing"].refused


def test_each_row_is_kept_as_soon_as_it_is_measured(monkeypatch, tmp_path):
    kept = []
    rows = (Row(model, threads, {}) for model in "ab" for threads in (1, 2))
    measured = {model: [next(rows), next(rows)] for model in "ab"}

    def stopped(name, *_):
        yield measured[name][0]
        if name == "b":
            raise KeyboardInterrupt
        yield measured[name][1]

    monkeypatch.setattr(peers, "measure", stopped)
    monkeypatch.setattr(peers, "write_network", lambda name, folder: folder)
    with pytest.raises(KeyboardInterrupt):
        peers.run("ab", [], QUICK, tmp_path, lambda found: kept.append(len(found)))
    assert kept == [1, 2, 3]


def test_missing_engine_is_reported(capsys):
    assert peers.installed([Missing, ENGINES["onnxruntime"]]) == [ENGINES["onnxruntime"]]
    line = capsys.readouterr().err
    assert "Missing" in line
    assert "no_such_module" in line
    assert "pip install no-such-package" in line


def test_nothing_installed_is_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(ENGINES, "ncnn", Missing)
    assert peers.main(["--engines", "ncnn", "--out", str(tmp_path)]) == 1
    assert "none of the engines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("--models", "mobilenet_v4", "mobilenet_v"),
        ("--engines", "onnx_runtime", "onnxruntime"),
        ("--threads", "0", "at least 1"),
    ],
)
def test_wrong_option(option, value, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        peers.main([option, value])
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_more_threads_than_cores(tmp_path, capsys):
    count = len(os.sched_getaffinity(0)) + 1
    arguments = ["--engines", "onnxruntime", "--threads", str(count), "--out", str(tmp_path)]
    assert peers.main(arguments) == 1
    assert f"{count} threads" in capsys.readouterr().err


def test_relative_error():
    expected = {"y": np.array([[1.0, -4.0]], np.float32)}
    assert relative_error({"y": np.array([1.0, -4.0])}, expected) == (0.0, "")
    assert relative_error({"y": np.array([1.0, -3.0])}, expected)[0] == 0.25
    for wrong in ({}, {"y": np.zeros(3)}, {"y": np.array([np.nan, -4.0])}):
        error, why = relative_error(wrong, expected)
        assert math.isinf(error)
        assert "'y'" in why
    # Same number of elements, other axes: not the same answer.
    assert math.isinf(relative_error({"y": np.zeros((3, 2))}, {"y": np.zeros((2, 3))})[0])


def test_ratios_are_of_pairs():
    ours = Entry("edgecc", medians_ms=[1.0, 10.0, 2.0])
    theirs = Entry("onnxruntime", medians_ms=[2.0, 20.0, 2.0])
    assert pair_ratio(ours, theirs) == 0.5
    assert pair_ratio(ours, None) is None
    slower = Entry("mnn", medians_ms=[9.0, 90.0, 9.0])
    refused = Entry("ncnn", medians_ms=[0.1, 0.1, 0.1])
    refused.refuse("wrong", wrong=True)
    entries = {entry.engine: entry for entry in (ours, theirs, slower, refused)}
    row = Row("net", 1, entries)
    assert row.best_peer is theirs
    assert row.to_best == row.to_onnxruntime == 0.5
    assert geometric_mean([0.5, None, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([None]) is None


def test_loose_outputs_are_named():
    entries = {
        name: Entry(name, error=error, medians_ms=[1.0], minima_ms=[1.0])
        for name, error in (("edgecc", 9e-5), ("mnn", 2e-3))
    }
    rows = [Row("net", threads, entries) for threads in (1, 2)]
    assert approximations(rows) == ["approximate: MNN on net, relative error 2.0e-03"]


def test_ncnn_casts_of_inputs_become_float_inputs():
    text = "Input in0 0 1 in0\nTensor.to   Tensor.to_24  1 1 in1 3\nReLU r 1 1 3 out0\n"
    found, as_float = _without_casts(text)
    assert as_float == {"in1"}
    assert [line.split()[0] for line in found.splitlines()] == ["Input", "Noop", "ReLU"]
    assert found.splitlines()[1].split()[1:] == ["Tensor.to_24", "1", "1", "in1", "3"]


def test_suite_is_complete():
    assert len(SUITE) == len(set(SUITE)) == 11
