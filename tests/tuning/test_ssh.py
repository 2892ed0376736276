"""The way over SSH, with a stand-in for ssh that runs the board's commands here."""

from __future__ import annotations

import pytest

from compiler.errors import EdgeccError
from compiler.target import load_target
from compiler.tuning.measure import Settings
from compiler.tuning.ssh import COMMAND, ssh_command, ssh_device
from tests.tuning.kernels import kernel_candidate

HOST = load_target("host")
QUICK = Settings(1, budget_ms=5, samples=3, timeout_s=2.0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Of the user on the board; ssh without a network."""
    program = tmp_path / "ssh"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{tmp_path}/calls"\n'
        "for last; do :; done\n"
        f'mkdir -p "{tmp_path}/home" && cd "{tmp_path}/home" && exec sh -c "$last"\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv(COMMAND, f"'{program}' -i key")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        ("board", "board"),
        ("pi@board", "pi@board"),
        ("pi@board:2222", "ssh://pi@board:2222"),
        ("[fe80::1]:22", "ssh://[fe80::1]:22"),
        ("pi@fe80::1", "pi@fe80::1"),
        ("ssh://pi@board:22", "ssh://pi@board:22"),
    ],
)
def test_destinations(host, destination, monkeypatch):
    monkeypatch.delenv(COMMAND, raising=False)
    command = ssh_command(host)
    assert command[0] == "ssh"
    assert command[-1] == destination


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "two words"])
def test_what_is_no_host(host):
    with pytest.raises(EdgeccError, match="no host"):
        ssh_command(host)


def test_a_command_that_is_none(monkeypatch):
    monkeypatch.setenv(COMMAND, "ssh 'oops")
    with pytest.raises(EdgeccError, match=COMMAND):
        ssh_command("board")
    monkeypatch.setenv(COMMAND, "/no/such/program")
    with pytest.raises(EdgeccError, match="can't run /no/such/program"):
        ssh_device("board", HOST, QUICK)


def test_a_board_that_does_not_let_us_in(monkeypatch):
    monkeypatch.setenv(COMMAND, "sh -c 'echo Permission denied >&2; exit 255'")
    with pytest.raises(EdgeccError, match="Permission denied") as error:
        ssh_device("pi@board", HOST, QUICK)
    assert "without asking" in error.value.hint


def test_measures_with_a_copied_program(home):
    device = ssh_device("pi@board:2222", HOST, QUICK)
    try:
        assert device.measure(kernel_candidate("double", HOST), True).error == 0
        assert device.measure(kernel_candidate("wrong", HOST), False).error > 1e-3
    finally:
        device.close()
    (program,) = (home / ".cache" / "edgecc").iterdir()
    assert program.name.startswith("measurer-")
    assert program.stat().st_mode & 0o777 == 0o700
    calls = (home.parent / "calls").read_text()
    assert calls.startswith("-i key ")
    assert "ssh://pi@board:2222" in calls


def test_a_board_of_another_kind(home):
    target = "arm_cortex_a72" if HOST.arch != "aarch64" else "x86_64"
    with pytest.raises(EdgeccError) as error:
        ssh_device("board", load_target(target), QUICK)
    assert f"--target {target}" in error.value.hint
