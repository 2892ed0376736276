"""What holds for all commands: exit codes, streams, start-up, interrupts."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from compiler import __version__
from compiler.cli.app import app
from compiler.errors import EdgeccError
from compiler.shipped import DIGITS

from .conftest import ROOT

COMMANDS = ["build", "run", "bench", "profile", "verify", "inspect", "targets"]
ERROR = re.compile(r"error: [^\n]+\n\nhint: [^\n]+\n")


def test_help_lists_every_command(edgecc):
    done = edgecc("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    assert "--json" in result.stdout


def test_version(edgecc):
    done = edgecc("--version")
    assert (done.returncode, done.stdout) == (0, f"edgecc {__version__}\n")


def test_without_arguments_it_shows_the_help(edgecc):
    done = edgecc()
    assert "Usage: edgecc" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["targets"], ["targets", "arm_cortex_a72"]])
def test_light_commands_import_nothing_heavy(arguments):
    script = (
        "import sys\nfrom compiler.cli import main\n"
        f"sys.argv = ['edgecc', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "print('HEAVY', [m for m in ('tvm', 'onnx', 'numpy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_importing_the_package_is_light():
    script = "import sys, compiler; print([m for m in ('tvm', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_errors_of_the_user(edgecc):
    done = edgecc("targets", "arm_cortex_a27")
    assert (done.returncode, done.stdout) == (1, "")
    assert ERROR.fullmatch(done.stderr)
    assert "did you mean arm_cortex_a7?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["targest"], "targets"),
        (["targets", "--jsn"], "--json"),
        (["bench"], "PACKAGE"),
        (["bench", "x", "--threads", "many"], "--threads"),
        (["bench", "x", "--threads", "0"], "--threads"),
        (["targets", "a", "b"], "b"),
    ],
)
def test_errors_of_usage(edgecc, arguments, text):
    done = edgecc(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr
    assert text in done.stderr


def test_traceback_only_with_debug(edgecc):
    assert "Traceback" not in edgecc("targets", "nope").stderr
    for arguments in (["--debug", "targets", "nope"], ["targets", "nope", "--debug"]):
        done = edgecc(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "error: unknown target 'nope'" in done.stderr


def test_a_bug_is_reported_as_one(monkeypatch):
    def broken():
        raise ZeroDivisionError("three\nlines\nof text")

    monkeypatch.setattr("compiler.cli.targets.list_targets", broken)
    result = CliRunner().invoke(app, ["targets"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error: ZeroDivisionError: of text\n\nhint: ")


def test_an_error_is_one_line(monkeypatch):
    def broken():
        raise EdgeccError("two\nlines", "look")

    monkeypatch.setattr("compiler.cli.targets.list_targets", broken)
    assert CliRunner().invoke(app, ["targets"]).stderr == "error: two lines\n\nhint: look\n"


def test_ctrl_c_before_any_work(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("compiler.cli.targets.list_targets", interrupted)
    result = CliRunner().invoke(app, ["targets"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize(
    ("stage", "number", "code", "last"),
    [
        ("import", signal.SIGINT, 130, "error: interrupted\n"),
        ("link", signal.SIGINT, 130, "error: interrupted\n"),
        ("verify", signal.SIGINT, 130, "error: interrupted\n"),
        ("link", signal.SIGTERM, 143, ""),
    ],
)
def test_an_interrupted_build_leaves_nothing(tmp_path, stage, number, code, last):
    process = subprocess.Popen(
        [sys.executable, "-m", "compiler", "build", str(DIGITS), "-o", "out/package"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests are a shell's background job, Ctrl-C is ignored, and inherited so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while f"] {stage}" not in seen:
        line = process.stderr.readline()
        assert line, f"the build never came to '{stage}': {seen}"
        seen += line
    os.killpg(process.pid, number)  # all its processes, as a terminal does
    out, rest = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in rest
    assert rest.endswith(last)
    left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert left == []


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a person sees: both streams on a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "compiler", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment},
    )
    os.close(child)
    text, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            data = os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        text += data
    process.wait()
    os.close(parent)
    return text.decode()


def test_colours_only_on_a_terminal_that_wants_them(edgecc):
    assert "\033[" in on_terminal("targets", "nope")
    assert "\033[" not in on_terminal("targets", "nope", NO_COLOR="1")
    assert "\033[" not in on_terminal("targets", "nope", TERM="dumb")
    assert "\033[" not in edgecc("targets").stdout


def test_the_same_answer_on_a_terminal(edgecc):
    piped = edgecc("targets").stdout
    assert on_terminal("targets", NO_COLOR="1").replace("\r\n", "\n") == piped


def test_a_bar_on_a_terminal(tmp_path):
    text = on_terminal("build", str(DIGITS), "-o", str(tmp_path / "p"), "--no-verify")
    assert "kernels" in text
    assert "━" in text


def test_a_closed_pipe_is_no_crash():
    script = f"{sys.executable} -m compiler targets | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_targets_as_json(edgecc):
    done = edgecc("targets", "--json")
    targets = {target["name"]: target for target in json.loads(done.stdout)}
    assert targets["arm_cortex_a72"]["caches"]["l2"] == 1 << 20
    one = json.loads(edgecc("targets", "arm_cortex_a72", "--json").stdout)
    assert one == targets["arm_cortex_a72"]


def test_a_target_file_of_the_user(edgecc, tmp_path):
    (tmp_path / "board.toml").write_text('base = "arm_cortex_a53"\ncores = 2\n')
    assert re.search(r"cores +2 at 1.4 GHz", edgecc("targets", "board.toml").stdout)
