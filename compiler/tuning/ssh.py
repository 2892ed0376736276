"""A board that needs nothing but an SSH server: the measuring program is copied there and run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

from compiler.errors import EdgeccError
from compiler.target import Target
from compiler.tuning.candidates import measurer
from compiler.tuning.measure import PipeDevice, Settings, SteadyDevice

# The ssh program with its options, where the user's configuration should not hold them.
COMMAND = "EDGECC_SSH"
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
_NO_SHELL = 255  # ssh's own status


def ssh_command(host: str) -> list[str]:
    """Connects to a host; a command for the host's shell may follow.

    Args:
        host: [USER@]HOST[:PORT], an alias of ~/.ssh/config, or ssh://[USER@]HOST[:PORT].

    Raises:
        EdgeccError: ``host`` is none, or EDGECC_SSH is no command.
    """
    try:
        program = shlex.split(os.environ.get(COMMAND, "")) or ["ssh"]
    except ValueError as error:
        raise EdgeccError(f"{COMMAND}: {error}", "for example EDGECC_SSH='ssh -i KEY'") from error
    if not host or host.startswith("-") or re.search(r"\s", host):
        raise EdgeccError(f"--ssh {host}: no host", "give [USER@]HOST[:PORT]")
    name = host.rpartition("@")[2]
    # More than one colon is a bare IPv6 address.
    if not host.startswith("ssh://") and (name.startswith("[") or name.count(":") == 1):
        host = f"ssh://{host}"
    return [*program, *_OPTIONS, host]


def ssh_device(host: str, target: Target, settings: Settings) -> SteadyDevice:
    """Copy the measuring program to a board and see that it runs there.

    Args:
        host: as of ``ssh_command``.

    Raises:
        EdgeccError: the host can't be reached, or the program can't be put or run there.
    """
    # Under the home folder: nobody else can put a program of theirs in its place.
    remote = f".cache/edgecc/{measurer(target).name}"
    ssh = ssh_command(host)
    copy = (
        f"umask 077; mkdir -p .cache/edgecc && cat > {remote}.$$ && chmod 700 {remote}.$$ && "
        f"mv {remote}.$$ {remote}"
    )
    done = _run([*ssh, copy], measurer(target).read_bytes())
    if done.returncode:
        hint = f"`{shlex.join([*ssh, 'true'])}` must work without asking"
        raise EdgeccError(f"--ssh {host}: {_last_line(done)}", hint)
    done = _run([*ssh, f"./{remote}"], b"")
    if done.returncode:
        lost = done.returncode == _NO_SHELL
        raise EdgeccError(
            f"--ssh {host}: {_last_line(done)}",
            "the connection broke off" if lost else f"is it a board for --target {target.name}?",
        )
    return SteadyDevice(PipeDevice(f"ssh {host}", [*ssh, f"./{remote}"], settings))


def _run(command: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=data, capture_output=True, check=False)
    except OSError as error:
        raise EdgeccError(f"can't run {command[0]}: {error.strerror}", "install OpenSSH") from error


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
