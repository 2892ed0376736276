"""The tuner takes integer templates as any other, and what it builds of them stays tensorised."""

from __future__ import annotations

import onnx

import compiler
from compiler.target import load_target
from compiler.tuning.api import tune
from tests.networks.test_quantised import Graph, residual


def test_a_quantised_network_is_tuned_and_built(tmp_path):
    activation = "uint8" if load_target("host").arch == "x86_64" else "int8"
    model, _ = residual(Graph((1, 3, 14, 14), activation, most=63))
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    logs = tmp_path / "logs"
    result = tune(path, "host", trials=12, threads=1, tuning_logs=logs)
    tasks = [task for task in result.tasks if task.template == "conv2d_integer"]
    assert tasks
    kept, lost = (sum(task.tensorized[i] for task in tasks) for i in (0, 1))
    assert kept >= 4
    assert lost == 0
    built = compiler.build(path, "host", tmp_path / "package", tuning_logs=[logs], verify=False)
    rows = [r for r in built.receipt["operators"] if r["template"] == "conv2d_integer"]
    assert {row["tuned"] for row in rows} == {"measured"}
    assert all(row["intrinsic"] for row in rows)
