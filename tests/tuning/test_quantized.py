"""Quantised models are tuned as they are built."""

from compiler.quantize.request import make_request
from compiler.shipped import DIGITS
from compiler.target import load_target
from compiler.tuning.api import model_tasks


def test_the_tasks_are_those_of_the_quantised_model():
    target = load_target("x86_64_v3")
    request = make_request("int8", None, "auto", None, "float32")
    tasks = model_tasks(DIGITS, target, None, None, exact=False, request=request)
    assert "conv2d_integer" in {task.template for task in tasks}
    plain = model_tasks(DIGITS, target, None, None, exact=False, request=None)
    assert "conv2d_integer" not in {task.template for task in plain}
