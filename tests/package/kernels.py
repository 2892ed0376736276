"""Programs for these tests, from small C kernels instead of a model: no TVM needed."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from compiler.package import Golden
from compiler.package.link import zig
from compiler.program import (
    Allocation,
    ArenaPlan,
    KernelCall,
    Location,
    Program,
    Space,
    TensorInfo,
)
from compiler.target import Target

# Parallel as TVM emits it: the chunk comes from the task id and the number of tasks.
SOURCE = r"""
#include <stdint.h>
typedef struct { void *sync_handle; int32_t num_task; } Env;
typedef int (*Lambda)(int, Env *, void *);
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(Lambda, void *, int);
__attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);
extern void TVMFFIErrorSetRaisedFromCStrParts(const char *, const char **, int32_t);

enum { N = 1000 };
typedef struct { const float *x, *w; float *y; } Closure;

static int scale_chunk(int task, Env *env, void *data) {
  const Closure *c = data;
  const int chunk = (N + env->num_task - 1) / env->num_task;
  float *t = __TVMBackendAllocWorkspace(1, 0, N * sizeof(float), 2, 32);
  if (!t) return -1;
  for (int i = task * chunk; i < (task + 1) * chunk && i < N; ++i) t[i] = c->x[i] * c->w[i];
  for (int i = task * chunk; i < (task + 1) * chunk && i < N; ++i) c->y[i] = t[i];
  return __TVMBackendFreeWorkspace(1, 0, t);
}
int32_t scale(void *x, void *w, void *y) {
  Closure c = {x, w, y};
  return __TVMBackendParallelLaunch(scale_chunk, &c, 0);
}
int32_t shift(void *x, void *bias, void *y) {
  for (int i = 0; i < N; ++i) ((float *)y)[i] = ((float *)x)[i] + ((float *)bias)[0];
  return 0;
}
int32_t count_positive(void *x, void *n) {
  int64_t count = 0;
  for (int i = 0; i < N; ++i) count += ((float *)x)[i] > 0;
  *(int64_t *)n = count;
  return 0;
}
static int fail_chunk(int task, Env *env, void *data) {
  const char *parts[] = {"the sky ", "fell"};
  if (task == env->num_task - 1) TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 2);
  return task == env->num_task - 1 ? -1 : 0;
}
int32_t broken(void *x, void *y) { return __TVMBackendParallelLaunch(fail_chunk, 0, 0); }
"""
N = 1000


@functools.lru_cache
def compile_c(source: str, triple: str, cpu: str) -> bytes:
    """An object file, as the code generator would make it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.c").write_text(source)
        zig(
            [
                "-target",
                triple,
                f"-mcpu={cpu}",
                "-c",
                "-O2",
                "-fPIC",
                "-g0",
                "-fno-sanitize=all",
                "kernels.c",
                "-o",
                "kernels.o",
            ],
            Path(folder),
        )
        return (Path(folder) / "kernels.o").read_bytes()


WEIGHTS = np.linspace(-2, 2, N, dtype=np.float32)
BIAS = np.float32(0.25)


def model(
    target: Target, name: str = "toy", *, fail: bool = False, scratch_bytes: int = 4096
) -> Program:
    """y = x * w + 0.25 and n = count(y > 0), over an arena tensor in between."""
    at = Location
    offset = -(-WEIGHTS.nbytes // 64) * 64
    weights = WEIGHTS.tobytes().ljust(offset, b"\0") + BIAS.tobytes()
    calls = [
        KernelCall(
            "scale",
            (at(Space.INPUT, 0), at(Space.WEIGHTS, 0), at(Space.ARENA, 64)),
            "multiply",
            ("Mul_0",),
            macs=N,
            nbytes=12 * N,
            report={"template": "elementwise", "dtype": "float32"},
        ),
        KernelCall(
            "shift",
            (at(Space.ARENA, 64), at(Space.WEIGHTS, offset), at(Space.OUTPUT, 0)),
            'add "quoted" \\ ü ??/',
            nbytes=8 * N,
        ),
        KernelCall("count_positive", (at(Space.OUTPUT, 0), at(Space.OUTPUT, 1)), "count"),
    ]
    if fail:
        calls.insert(2, KernelCall("broken", (at(Space.INPUT, 0), at(Space.OUTPUT, 0)), "broken"))
    return Program(
        name=name,
        inputs=(TensorInfo("x", "float32", (10, 100)),),
        outputs=(TensorInfo("y", "float32", (1000,)), TensorInfo("n", "int64", ())),
        calls=tuple(calls),
        arena=ArenaPlan(
            64 + 4 * N, 4 * N, (Allocation("t", 64, 4 * N, 0, 1),), scratch_bytes=scratch_bytes
        ),
        weights=weights,
        objects=(compile_c(SOURCE, target.linker_triple, target.linker_cpu),),
    )


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = x.reshape(-1) * WEIGHTS + BIAS
    return y, np.array((y > 0).sum(), np.int64)


def golden(seed: int = 0) -> Golden:
    x = np.random.default_rng(seed).standard_normal((10, 100), dtype=np.float32)
    y, n = reference(x)
    return Golden({"x": x}, {"y": y, "n": n}, "numpy")


def run_python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, where a crash is only a return code."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False
    )
