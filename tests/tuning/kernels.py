"""Candidates in C, good and bad ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

from compiler.package.link import zig
from compiler.target import Target
from compiler.tuning.candidates import Candidate, device_object
from compiler.tuning.measure import Settings

# Outputs of 64 floats from 64 floats.
KERNELS = {
    "double": "for (int i = 0; i < 64; ++i) y[i] = 2 * x[i];",
    "nearly": "for (int i = 0; i < 64; ++i) y[i] = 2.000001f * x[i];",
    "wrong": "for (int i = 0; i < 64; ++i) y[i] = 2 * x[i] + (i == 9);",
    "partly": "for (int i = 0; i < 63; ++i) y[i] = 2 * x[i];",
    "beyond": "for (int i = 0; i < 65; ++i) y[i] = 2 * x[i % 64];",
    "root": "for (int i = 0; i < 64; ++i) y[i] = __builtin_sqrtf(x[i]);",
    "crash": "*(volatile int *)0 = 1;",
    "hang": "for (volatile int i = 0;; ++i) y[0] = x[0];",
    "error": "return 7;",
    "abort": "__builtin_trap();",
    "greedy": "char *volatile p = malloc(1 << 30); if (!p) return 1; p[9] = 1; free(p);",
}
# What is said of them.
BAD = {
    "crash": "crashed with signal 11",
    "abort": "crashed with signal",
    "hang": "no result after 2000 ms",
    "error": "the kernel reports an error",
    "beyond": "wrote behind a buffer",
    "greedy": "the kernel reports an error",
}
QUICK = Settings(2, budget_ms=5, samples=3, timeout_s=2.0, memory_mb=512)


def kernel_candidate(name: str, target: Target) -> Candidate:
    """One of ``KERNELS``, with edgecc's entries around it."""
    code = (
        "#include <stdlib.h>\n"
        f"int edgecc_kernel(const float *x, float *y) {{ {KERNELS[name]} return 0; }}"
    )
    return c_candidate(name, code, ("i f 1 256 0", "o f 256"), 512, target)


def c_candidate(
    name: str, code: str, buffers: tuple[str, ...], nbytes: int, target: Target
) -> Candidate:
    """A file of C that defines ``edgecc_kernel``."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "kernel.c").write_text(code)
        flags = ["-target", target.linker_triple, "-O1", "-fPIC", "-shared", "-fno-sanitize=all"]
        zig([*flags, "kernel.c", str(device_object(target)), "-lpthread", "-o", "out.so"], work)
        return Candidate((0,), (work / "out.so").read_bytes(), buffers, nbytes, name, name, {})
