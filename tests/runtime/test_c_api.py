"""The C ABI as a C program sees it: a mistake gives a code and a text, never a crash."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from compiler.package.link import zig

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "toy.h"
#include "other.h"

#define CHECK(condition) \
  do { if (!(condition)) { printf("line %d: %s\n", __LINE__, #condition); return 1; } } while (0)
#define FAILS(code, text) \
  do { int s_ = toy->run(&state, &in, out); \
    if (s_ != (code) || !strstr(toy->last_error(&state), text)) { \
      printf("line %d: status %d '%s'\n", __LINE__, s_, toy->last_error(&state)); return 1; } \
  } while (0)

static float x[1000], y[1000];
static int64_t n;
static _Alignas(64) unsigned char arena[EDGECC_TOY_ARENA_BYTES];
static _Alignas(64) unsigned char arena2[EDGECC_OTHER_ARENA_BYTES];
static const int64_t x_shape[] = {10, 100}, y_shape[] = {1000};

static int mistakes(const edgecc_model *toy) {
  edgecc_state state;
  memset(&state, 0xAB, sizeof state);
  edgecc_tensor in = {x, sizeof x, x_shape, 2, EDGECC_FLOAT32};
  edgecc_tensor out[2] = {{y, sizeof y, y_shape, 1, EDGECC_FLOAT32},
                          {&n, sizeof n, NULL, 0, EDGECC_INT64}};
  CHECK(toy->run(&state, &in, out) == EDGECC_ERROR_NULL);
  CHECK(strstr(toy->last_error(&state), "not initialised"));
  CHECK(toy->run(NULL, &in, out) == EDGECC_ERROR_NULL);
  CHECK(toy->init(NULL, NULL, 0) == EDGECC_ERROR_NULL);
  CHECK(!strcmp(toy->last_error(NULL), "state is NULL"));
  toy->close(NULL);
  toy->close(&state);
  CHECK(toy->init(&state, arena + 8, 0) == EDGECC_ERROR_ALIGNMENT);
  CHECK(strstr(toy->last_error(&state), "not aligned to 64 bytes"));
  CHECK(toy->run(&state, &in, out) == EDGECC_ERROR_NULL);
  CHECK(toy->threads(&state) == 0);
  CHECK(toy->init(&state, arena, 2) == EDGECC_OK);
  CHECK(toy->threads(&state) == 2);
  CHECK(toy->run(&state, &in, out) == EDGECC_OK);
  CHECK(!strcmp(toy->last_error(&state), ""));
  CHECK(toy->run(&state, NULL, out) == EDGECC_ERROR_NULL);
  CHECK(toy->run(&state, &in, NULL) == EDGECC_ERROR_NULL);
  CHECK(toy->profile(&state, &in, out, NULL) == EDGECC_ERROR_NULL);

  in.dtype = EDGECC_FLOAT64;
  FAILS(EDGECC_ERROR_DTYPE, "input 'x' is float64, the model wants float32");
  in.dtype = 99;
  FAILS(EDGECC_ERROR_DTYPE, "input 'x' is unknown, the model wants float32");
  in.dtype = EDGECC_FLOAT32;
  in.shape = y_shape, in.rank = 1;
  FAILS(EDGECC_ERROR_SHAPE, "input 'x' has shape 1000, the model wants 10x100");
  in.shape = x_shape, in.rank = -5;
  FAILS(EDGECC_ERROR_SHAPE, "input 'x' has shape rank -5");
  in.rank = 1 << 30;
  FAILS(EDGECC_ERROR_SHAPE, "input 'x' has shape rank 1073741824");
  in.rank = 2, in.nbytes = 4;
  FAILS(EDGECC_ERROR_SHAPE, "input 'x' has 4 bytes, the model wants 4000");
  in.nbytes = sizeof x, in.data = NULL;
  FAILS(EDGECC_ERROR_NULL, "input 'x': data is NULL");
  in.data = (char *)x + 1;
  FAILS(EDGECC_ERROR_ALIGNMENT, "input 'x': data is not aligned to 4 bytes");
  in.data = y;
  FAILS(EDGECC_ERROR_OVERLAP, "output 'y' overlaps input 'x'");
  in.data = arena + 64;
  FAILS(EDGECC_ERROR_OVERLAP, "input 'x' overlaps the arena");
  in.data = x, out[1].data = y;
  FAILS(EDGECC_ERROR_OVERLAP, "output 'n' overlaps output 'y'");
  out[1].data = arena;
  FAILS(EDGECC_ERROR_OVERLAP, "output 'n' overlaps the arena");
  out[1].data = NULL;
  FAILS(EDGECC_ERROR_NULL, "output 'n': data is NULL");
  out[1].data = &n;
  CHECK(toy->run(&state, &in, out) == EDGECC_OK);
  double ms[EDGECC_TOY_N_OPERATORS];
  CHECK(toy->profile(&state, &in, out, ms) == EDGECC_OK);
  for (int i = 0; i < EDGECC_TOY_N_OPERATORS; ++i) CHECK(ms[i] >= 0 && ms[i] < 1e4);
  toy->close(&state);
  toy->close(&state);
  CHECK(toy->run(&state, &in, out) == EDGECC_ERROR_NULL);
  return 0;
}

typedef struct { const edgecc_model *model; void *arena; float bias; int code; } job;

static void *many_runs(void *argument) {
  job *self = argument;
  float a[1000], b[1000];
  int64_t count;
  edgecc_tensor in = {a, sizeof a, NULL, 0, EDGECC_FLOAT32};
  edgecc_tensor out[2] = {{b, sizeof b, NULL, 0, EDGECC_FLOAT32},
                          {&count, sizeof count, NULL, 0, EDGECC_INT64}};
  edgecc_state state;
  for (int i = 0; i < 1000; ++i) a[i] = self->bias;
  self->code = self->model->init(&state, self->arena, 3);
  for (int i = 0; i < 2000 && !self->code; ++i) {
    self->code = self->model->run(&state, &in, out);
    if (b[0] != -2 * self->bias + 0.25f || b[999] != 2 * self->bias + 0.25f) self->code = 100;
  }
  self->model->close(&state);
  return NULL;
}

static int together(const edgecc_model *toy, const edgecc_model *other) {
  job jobs[] = {{toy, arena, 1, 0}, {other, arena2, 2, 0}, {toy, NULL, 3, 0}};
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, many_runs, &jobs[i]);
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
  for (int i = 0; i < 3; ++i) CHECK(jobs[i].code == 0);
  return 0;
}

/* One state from two threads: one of them runs, the other hears that it is busy. */
static edgecc_state shared;
static void *same_state(void *argument) {
  float b[1000];
  int64_t count;
  edgecc_tensor in = {x, sizeof x, NULL, 0, EDGECC_FLOAT32};
  edgecc_tensor out[2] = {{b, sizeof b, NULL, 0, EDGECC_FLOAT32},
                          {&count, sizeof count, NULL, 0, EDGECC_INT64}};
  for (int i = 0; i < 20000; ++i) {
    int code = edgecc_toy_v1()->run(&shared, &in, out);
    if (code != EDGECC_OK && code != EDGECC_ERROR_BUSY) *(int *)argument = code;
  }
  return NULL;
}

static int busy(const edgecc_model *toy) {
  pthread_t threads[2];
  int codes[2] = {0, 0};
  CHECK(toy->init(&shared, NULL, 1) == EDGECC_OK);
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, same_state, &codes[i]);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  CHECK(codes[0] == 0 && codes[1] == 0);
  toy->close(&shared);
  return 0;
}

static int described(const edgecc_model *toy) {
  CHECK(toy->abi_version == EDGECC_ABI_VERSION && toy->struct_bytes == sizeof *toy);
  CHECK(!strcmp(toy->name, "toy") && !strcmp(toy->target, "host"));
  CHECK(toy->n_inputs == 1 && toy->n_outputs == 2 && toy->n_operators == 3);
  CHECK(!strcmp(toy->inputs[0].name, "x") && toy->inputs[0].rank == 2);
  CHECK(toy->inputs[0].shape[0] == 10 && toy->inputs[0].shape[1] == 100);
  CHECK(toy->inputs[0].nbytes == EDGECC_TOY_INPUT0_BYTES && toy->inputs[0].scale == 0);
  CHECK(toy->outputs[1].dtype == EDGECC_INT64 && toy->outputs[1].rank == 0);
  CHECK(toy->arena_bytes == EDGECC_TOY_ARENA_BYTES);
  CHECK(toy->weights_bytes == EDGECC_TOY_WEIGHTS_BYTES);
  CHECK(!strcmp(toy->operators[0].label, "multiply") && toy->operators[0].macs == 1000);
  return 0;
}

int main(void) {
  const edgecc_model *toy = edgecc_toy_v1(), *other = edgecc_other_v1();
  CHECK(toy != other && !strcmp(other->name, "other"));
  if (described(toy) || mistakes(toy) || together(toy, other) || busy(toy)) return 1;
  printf("ok\n");
  return 0;
}
"""

# Counts what run allocates, by taking the place of malloc.
NO_ALLOCATION = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "toy.h"

static volatile int counted;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
void *malloc(size_t n) { ++counted; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { ++counted; return __libc_calloc(n, m); }

static float x[1000], y[1000];
static int64_t n;
static _Alignas(64) unsigned char arena[EDGECC_TOY_ARENA_BYTES];

int main(int argc, char **argv) {
  (void)argv;
  edgecc_state state;
  edgecc_tensor in = {x, sizeof x, NULL, 0, EDGECC_FLOAT32};
  edgecc_tensor out[2] = {{y, sizeof y, NULL, 0, EDGECC_FLOAT32},
                          {&n, sizeof n, NULL, 0, EDGECC_INT64}};
  const edgecc_model *toy = edgecc_toy_v1();
  int before = counted;
  if (toy->init(&state, arena, 1)) return 1;
  int init_serial = counted - before;
  if (argc > 1) toy->set_threads(&state, 4);
  before = counted;
  for (int i = 0; i < 100; ++i) if (toy->run(&state, &in, out)) return 2;
  int run = counted - before;
  before = counted;
  free(malloc(1));
  if (counted == before) return 3; /* the count would not show anything */
  printf("%d %d\n", init_serial, run);
  return 0;
}
"""


def build(source: str, work: Path, *packages: Path) -> Path:
    (work / "main.c").write_text(source)
    paths = []
    for package in packages:
        name = next(package.glob("lib*.so")).stem.removeprefix("lib")
        paths += [f"-I{package}", f"-L{package}", f"-l{name}", f"-Wl,-rpath,{package}"]
    zig(["-std=c11", "-O1", "-Wall", "-Wextra", "main.c", *paths, "-lpthread", "-o", "main"], work)
    return work / "main"


def test_mistakes_threads_and_two_models_in_one_process(toy, other, tmp_path):
    program = build(PROGRAM, tmp_path, toy, other)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.parametrize("arguments", [[], ["threads"]])
def test_run_allocates_nothing(toy, tmp_path, arguments):
    program = build(NO_ALLOCATION, tmp_path, toy)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "0 0\n"  # with an arena of the caller's and one thread, nor does init
