"""Candidates are timed in processes of their own: what one does wrong costs only itself."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import EdgeccError
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.shipped import DIGITS
from compiler.target import load_target
from compiler.tuning.candidates import Candidate, Request, build, measurer
from compiler.tuning.fleet import Fleet
from compiler.tuning.measure import (
    DeviceLostError,
    EmulatedDevice,
    Measurement,
    MeasurementError,
    PipeDevice,
    SteadyDevice,
    request,
)
from compiler.tuning.tasks import extract
from tests.tuning.kernels import BAD, KERNELS, QUICK, kernel_candidate
from tests.tuning.models import small_network

HOST = load_target("host")


@pytest.fixture(scope="module")
def candidates() -> dict[str, Candidate]:
    return {name: kernel_candidate(name, HOST) for name in KERNELS}


@pytest.fixture
def device():
    device = PipeDevice("here", [str(measurer(HOST))], QUICK)
    yield device
    device.close()


def test_times_and_compares(device, candidates):
    found = device.measure(candidates["double"], True)
    assert found.error == 0
    assert len(found.seconds) >= QUICK.samples
    assert all(1e-9 < s < 1e-3 for s in found.seconds)
    assert all(c > 0 for c in found.canary)
    assert 0 < device.measure(candidates["nearly"], False).error < 1e-6
    assert device.measure(candidates["wrong"], False).error > 1e-3
    # Memory that nobody wrote is not a number.
    assert device.measure(candidates["partly"], False).error == float("inf")


def test_the_machine_says_what_it_is(device):
    facts = device.facts()
    assert facts["kernel"] == platform.release()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    assert facts.get("machine") == (model and model[1])


def test_the_same_missing_numbers_are_no_difference(device, candidates):
    assert device.measure(candidates["root"], True).error == 0
    assert device.measure(candidates["double"], False).error == float("inf")


@pytest.mark.parametrize(("name", "reason"), BAD.items())
def test_a_bad_candidate_costs_itself(name, reason, device, candidates):
    device.measure(candidates["double"], True)
    with pytest.raises(MeasurementError, match=reason):
        device.measure(candidates[name], False)
    assert device.measure(candidates["double"], False).error == 0


def test_a_library_that_is_none(device, candidates):
    with pytest.raises(MeasurementError):
        device.measure(dataclasses.replace(candidates["double"], library=b"no ELF"), True)
    assert device.measure(candidates["double"], True).error == 0


def test_memory_is_limited(candidates):
    device = PipeDevice("here", [str(measurer(HOST))], QUICK)
    greedy = dataclasses.replace(
        candidates["double"], buffers=(*candidates["double"].buffers, f"w {1 << 30}")
    )
    with pytest.raises(MeasurementError, match="out of memory"):
        device.measure(greedy, True)
    device.close()


def test_a_lost_program_is_started_again(device, candidates):
    device.measure(candidates["double"], True)
    os.kill(device._process.pid, signal.SIGKILL)
    device._process.wait()
    with pytest.raises(DeviceLostError):
        device.measure(candidates["nearly"], False)
    # With its reference outputs.
    assert 0 < device.measure(candidates["nearly"], False).error < 1e-6


def test_nothing_is_left_behind(candidates):
    device = PipeDevice("here", [str(measurer(HOST))], QUICK)
    device.measure(candidates["double"], True)
    pid = device._process.pid
    device.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_its_parent(candidates, tmp_path):
    """A tuner that is killed leaves no measuring program."""
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([{str(measurer(HOST))!r}], stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


def test_it_ends_with_its_parent_in_the_middle_of_a_candidate(candidates):
    settings = dataclasses.replace(QUICK, timeout_s=60.0)
    process = subprocess.Popen([str(measurer(HOST))], stdin=subprocess.PIPE)
    process.stdin.write(request(candidates["hang"], settings, True))
    process.stdin.flush()
    time.sleep(0.5)
    process.stdin.close()
    assert process.wait(10) == 0


def test_one_program_serves_all_rounds(device, candidates):
    """Whichever thread starts it."""
    fleet = Fleet([device], pytest.fail)
    pids = set()
    for name in ("double", "nearly", "double"):
        (outcome,) = fleet.measure(candidates["double"], [candidates[name]])
        assert isinstance(outcome[1], Measurement)
        pids.add(device._process.pid)
    assert len(pids) == 1


class Weather:
    """A device whose canary is slow at times."""

    name = "weather"

    def __init__(self, canaries):
        self.canaries = list(canaries)
        self.calls = 0

    def measure(self, candidate, reference):
        self.calls += 1
        canary = self.canaries.pop(0)
        return Measurement((1e-3 * canary,), 0.0, (canary, canary))

    def close(self):
        pass


def test_a_disturbed_measurement_is_repeated(candidates):
    weather = Weather([1.0, 1.5, 1.02, 1.0])
    device = SteadyDevice(weather)
    device.measure(candidates["double"], True)
    assert device.measure(candidates["double"], False).best == 1e-3 * 1.02
    assert weather.calls == 3
    assert device.disturbed == 0


def test_bad_weather_ends(candidates):
    device = SteadyDevice(Weather([1.0, *[2.0] * 10]))
    device.measure(candidates["double"], True)
    assert device.measure(candidates["double"], False).best == 2e-3
    assert device.disturbed == 1


@pytest.mark.parametrize("target", ["arm_cortex_a72", "arm_cortex_a7", "riscv_spacemit_x60"])
def test_emulated_times_are_counts(target, tmp_path):
    target = load_target(target)
    module = optimize(import_model(small_network(tmp_path / "small.onnx")).module, target)
    task = extract(module, target)[0]
    first, last = (
        build(Request(task.as_json, task.n_inputs, target, task.space.rows[i])) for i in (0, -1)
    )
    device = EmulatedDevice(target, dataclasses.replace(QUICK, threads=1))
    try:
        found = device.measure(first, True)
        assert found.error == 0
        assert found.seconds == device.measure(first, True).seconds  # counts repeat
        assert device.measure(last, False).error < 1e-5
    finally:
        device.close()


def test_inputs_arrive_in_the_order_of_the_schedule(tmp_path):
    """On AArch64 weights are rearranged: the same values must reach the same products."""
    target = load_target("arm_cortex_a72")
    module = optimize(import_model(DIGITS).module, target)
    tasks = [t for t in extract(module, target) if t.template == "conv2d"][:4]
    device = EmulatedDevice(target, dataclasses.replace(QUICK, threads=1))
    try:
        for task in tasks:
            rows = [task.space.rows[0], task.space.rows[len(task.space.rows) // 2]]
            for i, row in enumerate(rows):
                built = build(Request(task.as_json, task.n_inputs, target, row))
                assert device.measure(built, i == 0).error < 1e-5
    finally:
        device.close()


def test_no_emulator_for_a_target():
    with pytest.raises(EdgeccError, match="nothing emulates"):
        EmulatedDevice(load_target("x86_64_v4"), QUICK)


def test_best_is_the_lower_quartile():
    assert Measurement(tuple(np.arange(8.0)), 0.0).best == 2.0
