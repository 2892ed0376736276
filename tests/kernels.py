"""Compile PrimFuncs and run them, natively or under qemu, without the packaging stages."""

from __future__ import annotations

import ctypes
import hashlib
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tvm import tirx

from compiler.codegen.lower import LoweredFunction, lower, object_code, source
from compiler.target import Target, load_target

GUARD = 256  # bytes behind each buffer that must not change
FOLDER = Path(tempfile.mkdtemp(prefix="edgecc-kernels-"))

# What kernels need from outside: parallel loops run their tasks one after the other, as THREADS
# threads would divide them, and thread scratch comes from the heap.
SUPPORT = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct { void *sync_handle; int32_t num_task; } Env;
typedef int (*Task)(int, Env *, void *);
static int launch(Task task, void *data, int count) {
    Env env = {0, count ? count : THREADS};
    for (int i = 0; i < env.num_task; ++i) {
        int status = task(i, &env, data);
        if (status) return status;
    }
    return 0;
}
int (*__TVMBackendParallelLaunch)(Task, void *, int) = launch;
static void *allocate(int type, int id, uint64_t size, int code, int bits) {
    return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int release(int type, int id, void *pointer) { free(pointer); return 0; }
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
"""


def host() -> Target:
    """The x86-64 or aarch64 target that runs natively here."""
    return load_target("host")


def run(
    func: tirx.PrimFunc,
    inputs: Sequence[np.ndarray],
    target: Target | None = None,
    threads: int = 3,
) -> list[np.ndarray]:
    """Compile a (scheduled) function, run it and return its outputs.

    Args:
        inputs: values of the leading parameters; the remaining parameters are outputs.
        target: the CPU to compile for; a foreign one runs under its emulator. None: the host.
        threads: what parallel loops divide their work by.
    """
    target = target or host()
    lowered = lower({"kernel": func}, target)["kernel"]
    arrays = [np.ascontiguousarray(x) for x in inputs]
    for parameter in list(func.params)[len(arrays) :]:
        shape = [int(d) for d in parameter.ty.shape]
        dtype = "bool" if str(parameter.ty.dtype) == "bool" else str(parameter.ty.dtype)
        arrays.append(np.full(shape, 77, dtype))
    workspaces = [np.zeros(nbytes, np.uint8) for nbytes in lowered.workspaces]
    alignments = [a.itemsize for a in arrays] + [64] * len(workspaces)
    native = target.name == "host" or target.arch == host().arch
    values = [*arrays, *workspaces]
    if native:
        results = _run_native(lowered, values, alignments, target, threads)
    else:
        results = _run_emulated(lowered, values, target, threads)
    return results[len(inputs) : len(arrays)]


def assembly(func: tirx.PrimFunc, target: Target) -> str:
    """The generated assembly of a function."""
    return source(lower({"kernel": func}, target), target)


def _link(lowered: LoweredFunction, target: Target, code: str, flags: Sequence[str]) -> Path:
    kernel = object_code({"kernel": lowered}, target)
    key = hashlib.sha256(kernel + code.encode() + target.name.encode()).hexdigest()[:16]
    binary = FOLDER / key
    if not binary.exists():
        unit = FOLDER / f"{key}.c"
        unit.write_text(code)
        (FOLDER / f"{key}.o").write_bytes(kernel)
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target.linker_triple]
        command += [f"-mcpu={target.linker_cpu}", "-O1", "-fno-sanitize=all", *flags]
        command += ["-o", str(binary), str(unit), str(FOLDER / f"{key}.o"), "-lm"]
        subprocess.run(command, check=True)
    return binary


def _run_native(
    lowered: LoweredFunction,
    arrays: Sequence[np.ndarray],
    alignments: Sequence[int],
    target: Target,
    threads: int,
) -> list[np.ndarray]:
    code = SUPPORT.replace("THREADS", str(threads))
    library = ctypes.CDLL(str(_link(lowered, target, code, ["-shared", "-fPIC", "-Wl,-Bsymbolic"])))
    padded = [_guarded(a, step) for a, step in zip(arrays, alignments, strict=True)]
    status = library.kernel(*(ctypes.c_void_p(p.ctypes.data) for p in padded))
    assert status == 0
    for p in padded:
        assert (p[-GUARD:] == 0xA5).all(), "the kernel wrote behind a buffer"
    return [p[:-GUARD].view(a.dtype).reshape(a.shape) for p, a in zip(padded, arrays, strict=True)]


def _guarded(array: np.ndarray, alignment: int) -> np.ndarray:
    """A copy as bytes, aligned to exactly ``alignment``, with guard values behind."""
    memory = np.empty(array.nbytes + GUARD + 256, np.uint8)
    start = -memory.ctypes.data % 128 + (alignment if alignment < 64 else 0)
    view = memory[start : start + array.nbytes + GUARD]
    view[: array.nbytes] = array.reshape(-1).view(np.uint8)
    view[array.nbytes :] = 0xA5
    return view


def _run_emulated(
    lowered: LoweredFunction, arrays: Sequence[np.ndarray], target: Target, threads: int
) -> list[np.ndarray]:
    emulator = target.emulator
    if emulator is None or shutil.which(emulator.command[0]) is None:
        pytest.skip(f"no emulator for {target.name}")
    pointers = ", ".join(["void *"] * len(arrays))
    lines = [SUPPORT.replace("THREADS", str(threads)), f"int32_t kernel({pointers});"]
    lines += ['int main(int argc, char **argv) { FILE *f = fopen(argv[1], "rb"); void *p[64];']
    for i, array in enumerate(arrays):
        nbytes = max(array.nbytes, 1)
        lines.append(f"p[{i}] = aligned_alloc(64, {math.ceil(nbytes / 64) * 64});")
        lines.append(f"if (fread(p[{i}], 1, {array.nbytes}, f) != {array.nbytes}) return 9;")
    lines.append(
        "fclose(f); int status = kernel("
        + ", ".join(f"p[{i}]" for i in range(len(arrays)))
        + '); f = fopen(argv[1], "wb");'
    )
    lines += [f"fwrite(p[{i}], 1, {array.nbytes}, f);" for i, array in enumerate(arrays)]
    lines.append("return fclose(f) | status; }")
    binary = _link(lowered, target, "\n".join(lines), [])
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        Path(file.name).write_bytes(b"".join(a.tobytes() for a in arrays))
        command = [*emulator.command, "-L", emulator.sysroot, str(binary), file.name]
        subprocess.run(command, check=True)
        data = Path(file.name).read_bytes()
    results, offset = [], 0
    for array in arrays:
        flat = np.frombuffer(data, array.dtype, array.size, offset)
        results.append(flat.reshape(array.shape).copy())
        offset += array.nbytes
    return results


def libm_calls(text: str) -> list[str]:
    """Lines of assembly that call one of the C library's float functions."""
    names = ("exp", "log", "pow", "erf", "tan", "sin", "cos", "floor", "ceil", "round", "trunc")
    calls = []
    for line in text.splitlines():
        words = line.replace(",", " ").split()
        if len(words) > 1 and words[0] in {"call", "callq", "bl", "jal", "tail", "jmp", "b", "blx"}:
            callee = words[1].removeprefix("*").split("@")[0].lstrip("a")
            if callee.startswith(names) or callee in {"cos", "sin", "cosf"}:
                calls.append(line.strip())
    return calls


def vector_lines(text: str, target: Target) -> int:
    """How many instructions of the assembly compute on vectors of floats."""
    patterns = {
        "x86_64": r"^\s+v?(add|mul|max|min|sub|div|fn?m(add|sub)\d+|andn?|or|mova|movu)ps\b",
        "aarch64": r"^\s+f\w+\s+v\d+\.(4|2)s",
        "arm": r"^\s+v\w+\.(f32|i32|s32)\s+[qd]\d+",
        "riscv64": r"^\s+vf\w+\.(vv|vf|vs|v)\b|^\s+vmerge|^\s+vmf",
    }
    return len(re.findall(patterns[target.arch], text, re.MULTILINE))


def scalar_lines(text: str, target: Target) -> int:
    """How many instructions of the assembly compute on single floats."""
    patterns = {
        "x86_64": r"^\s+v?(add|mul|max|min|sub|div|fn?m(add|sub)\d+)ss\b",
        "aarch64": r"^\s+f(add|mul|max|min|sub|div|madd|msub|maxnm|minnm)\s+s\d+",
        "arm": r"^\s+v(add|mul|sub|div|fma|mla)\.f32\s+s\d+",
        "riscv64": r"^\s+f(add|mul|max|min|sub|div|madd|msub)\.s\b",
    }
    return len(re.findall(patterns[target.arch], text, re.MULTILINE))


def vector_moves(text: str, target: Target) -> int:
    """How many instructions of the assembly move whole vectors."""
    patterns = {
        "x86_64": r"^\s+v?mov[au]p[sd]\s.*[xyz]mm",
        "aarch64": r"^\s+(ldp|stp|ldr|str)\s+q\d+",
        "arm": r"^\s+v(ld|st)1\.",
        "riscv64": r"^\s+v([ls]e\d+|l\dre\d+|s\dr)\.v",
    }
    return len(re.findall(patterns[target.arch], text, re.MULTILINE))
