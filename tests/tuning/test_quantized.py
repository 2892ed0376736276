"""Quantised models are tuned as they are built."""

import tvm_ffi

from compiler.quantize.request import make_request
from compiler.shipped import DIGITS
from compiler.target import load_target
from compiler.tuning.api import model_tasks
from compiler.tuning.tasks import offered, read_workload, workload_as_json


def test_the_tasks_are_those_of_the_quantised_model():
    target = load_target("x86_64_v3")
    request = make_request("int8", None, "auto", None, "float32")
    tasks = model_tasks(DIGITS, target, None, None, exact=False, request=request)
    assert "conv2d_integer" in {task.template for task in tasks}
    plain = model_tasks(DIGITS, target, None, None, exact=False, request=None)
    assert "conv2d_integer" not in {task.template for task in plain}


def test_what_was_found_out_holds_for_other_scales(tmp_path):
    """Another calibration changes numbers within the functions, but not their keys."""
    target = load_target("arm_cortex_a76")
    keys, functions = [], []
    for calibrator in ("minmax", "percentile"):
        recipe = tmp_path / f"{calibrator}.toml"
        recipe.write_text(f'[[rule]]\nmatch = "*"\ncalibrator = "{calibrator}"\n')
        request = make_request("int8", None, recipe, None, "float32")
        tasks = model_tasks(DIGITS, target, None, None, exact=False, request=request)
        keys.append([task.key for task in tasks])
        functions.append({tvm_ffi.structural_hash(task.func) for task in tasks})
        for task in tasks:
            read = read_workload(*workload_as_json(task.func))
            assert offered(read, target) == (task.template, task.space)
    assert keys[0] == keys[1]
    assert functions[0] != functions[1]
