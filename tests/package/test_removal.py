"""A package's temporary folder goes away, whoever still writes into it."""

from __future__ import annotations

import subprocess
import sys

from compiler.package.write import _remove

# Like a child of a killed linker: it goes on for a moment, as long as there is a folder.
WRITER = """
import sys, time
end = time.monotonic() + 0.4
number = 0
while time.monotonic() < end:
    open(f"{sys.argv[1]}/{number}", "w").close()
    number += 1
    if number == 100:
        print(flush=True)
"""


def test_a_late_writer_leaves_nothing(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    writer.stdout.readline()
    _remove(folder)
    assert not folder.exists()
    writer.wait(10)
    assert not folder.exists()
