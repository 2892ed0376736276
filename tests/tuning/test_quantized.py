"""Quantised models are tuned as they are built."""

import math

from compiler.api import DIGITS, build
from compiler.tuning.api import tune


def test_a_build_takes_what_was_tuned_for_it(tmp_path):
    logs = tmp_path / "logs"
    result = tune(DIGITS, "x86_64_v3", quantize="int8", trials=2, threads=1, tuning_logs=logs)
    tuned = [task for task in result.tasks if math.isfinite(task.default_seconds)]
    assert {"conv2d_integer"} <= {task.template for task in tuned}
    built = build(
        DIGITS, "x86_64_v3", tmp_path / "package", quantize="int8", verify=False, tuning_logs=[logs]
    )
    reports = [operator for operator in built.receipt["operators"] if operator.get("tuned")]
    assert reports
    assert all(operator["tuned"] == "measured" for operator in reports)
