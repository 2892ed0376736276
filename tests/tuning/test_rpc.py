"""Measuring behind TVM's RPC server and tracker: values, refusals, errors that say what to do."""

from __future__ import annotations

import dataclasses
import socket

import numpy as np
import pytest

from compiler.errors import EdgeccError
from compiler.target import load_target
from compiler.tuning.api import Where, make_devices
from compiler.tuning.measure import DeviceLostError, MeasurementError, local_device
from compiler.tuning.rpc import parse_address, rpc_device, tracker_devices
from compiler.tuning.rpc_session import input_bytes, parse_buffer
from tests.tuning.kernels import BAD, KERNELS, QUICK, c_candidate, kernel_candidate

pytest.importorskip("cloudpickle")  # the server starts its workers with it
pytest.importorskip("psutil")  # and ends them with it
pytest.importorskip("tornado")  # the tracker listens with it

HOST = load_target("host")


@pytest.fixture(scope="module")
def candidates():
    return {name: kernel_candidate(name, HOST) for name in KERNELS}


@pytest.fixture(scope="module")
def server():
    from tvm import rpc

    server = rpc.Server("127.0.0.1", 19300, 19400, silent=True)
    yield f"127.0.0.1:{server.port}"
    server.terminate()


@pytest.fixture(scope="module")
def device(server):
    device = rpc_device(server, HOST, QUICK)
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


@pytest.mark.parametrize(("name", "reason"), BAD.items())
def test_a_bad_candidate_costs_itself(name, reason, device, candidates):
    """The server is not lost with it, as it would be were the candidate to crash the session."""
    device.measure(candidates["double"], True)
    with pytest.raises(MeasurementError, match=reason):
        device.measure(candidates[name], False)
    assert device.measure(candidates["double"], False).error == 0


def test_buffers_beyond_the_limit_are_not_sent(device, candidates):
    big = (*candidates["double"].buffers, f"w {1 << 30}")
    with pytest.raises(MeasurementError, match="out of memory"):
        device.measure(dataclasses.replace(candidates["double"], buffers=big, nbytes=1 << 30), True)


def test_a_library_that_is_none(device, candidates):
    with pytest.raises(MeasurementError):
        device.measure(dataclasses.replace(candidates["double"], library=b"no ELF"), False)
    assert device.measure(candidates["double"], True).error == 0


def test_sets_of_buffers_take_turns(server, candidates):
    device = rpc_device(server, HOST, dataclasses.replace(QUICK, cold_bytes=512 * 5))
    try:
        assert device.measure(candidates["double"], True).error == 0
    finally:
        device.close()


@pytest.mark.parametrize(
    "line",
    [
        "i f 1 4096 0",
        "i f 7 96 3 2 3 4 2 0 1",
        "i b 4000000007 24 3 2 3 4 1 2 0",
        "i z 3 32 0",
    ],
)
def test_inputs_are_those_of_the_measuring_program(line, tmp_path):
    """What its own `fill` makes, seen by a kernel that writes its input to a file."""
    buffer, seen = parse_buffer(line), tmp_path / "seen"
    code = f"""
#include <stdio.h>
int edgecc_kernel(const void *x, char *y) {{
  FILE *file = fopen("{seen}", "wb");
  y[0] = 0;
  return file && fwrite(x, {buffer.nbytes}, 1, file) == 1 && !fclose(file) ? 0 : 1;
}}"""
    candidate = c_candidate("dump", code, (line, "o b 1"), buffer.nbytes + 1, HOST)
    device = local_device(HOST, QUICK)
    try:
        device.measure(candidate, True)
    finally:
        device.close()
    assert seen.read_bytes() == input_bytes(buffer).tobytes()
    if buffer.kind == "f":
        values = input_bytes(buffer).view(np.float32)
        assert -1 <= values.min() < values.max() < 1
        assert values.std() > 0.4


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_nobody_answers():
    with pytest.raises(EdgeccError, match="nobody answers") as error:
        rpc_device(f"127.0.0.1:{free_port()}", HOST, QUICK)
    assert "ssh -N -L" in error.value.hint
    with pytest.raises(EdgeccError, match="no TVM RPC tracker answers"):
        tracker_devices(f"127.0.0.1:{free_port()}", "pi", HOST, QUICK)


def test_somebody_who_never_answers(monkeypatch):
    """As a board that is busy with another session, or whose network is gone."""
    monkeypatch.setattr("compiler.tuning.rpc.PROBE_SECONDS", 1.0)
    monkeypatch.setattr("compiler.tuning.rpc.GRACE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EdgeccError, match="no answer in 2 s") as error:
            rpc_device(address, HOST, QUICK)
        assert "another session" in error.value.hint
        with pytest.raises(EdgeccError, match="no TVM RPC tracker answers"):
            tracker_devices(address, "pi", HOST, QUICK)


def test_a_server_for_another_cpu(server):
    with pytest.raises(EdgeccError) as error:
        rpc_device(server, load_target("arm_cortex_a72"), QUICK)
    assert "--target arm_cortex_a72" in error.value.hint


@pytest.mark.parametrize("text", ["board", "board:", ":9090", "board:99999", "board:x"])
def test_no_address(text):
    with pytest.raises(EdgeccError, match="no address"):
        parse_address("--rpc", text)


def test_addresses():
    assert str(parse_address("--rpc", "127.0.0.1:9090")) == "127.0.0.1:9090"
    assert parse_address("--rpc", "[::1]:9090").host == "::1"
    with pytest.raises(EdgeccError, match="--rpc"):
        parse_address("--rpc", "no-such-host.invalid:9090")


@pytest.fixture(scope="module")
def tracker():
    from tvm import rpc
    from tvm.rpc.tracker import Tracker

    tracker = Tracker("127.0.0.1", 19400, 19500, silent=True)
    address = ("127.0.0.1", tracker.port)
    servers = [
        rpc.Server("127.0.0.1", 19500, 19600, tracker_addr=address, key="pi", silent=True)
        for _ in range(2)
    ]
    yield f"127.0.0.1:{tracker.port}", servers
    for one in servers:
        one.terminate()
    tracker.terminate()


def test_boards_of_a_tracker(tracker, candidates):
    address, servers = tracker
    with pytest.raises(EdgeccError, match="knows no such board") as error:
        tracker_devices(address, "vision-five", HOST, QUICK)
    assert "pi" in error.value.hint
    with pytest.raises(EdgeccError, match="belongs to a tracker"):
        rpc_device(f"127.0.0.1:{servers[0].port}", HOST, QUICK)
    devices = make_devices(Where(tracker=address, key="pi"), HOST, QUICK)
    try:
        assert len(devices) == 2
        for device in devices:
            assert device.measure(candidates["double"], True).error == 0
        # Either takes whichever board is left; without any both are lost.
        servers[0].terminate()
        for device in devices:
            assert device.measure(candidates["double"], True).error == 0
        servers[1].terminate()
        with pytest.raises(DeviceLostError):
            devices[0].measure(candidates["double"], True)
    finally:
        for device in devices:
            device.close()
