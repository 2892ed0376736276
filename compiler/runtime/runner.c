/* Runs a built library on raw tensors: natively, or under an emulator.
 *
 *   runner LIBRARY verify  THREADS IN OUT           one run with 1 thread and one with THREADS
 *   runner LIBRARY bench   THREADS IN WARMUP RUNS   prints nanoseconds, a line for each run
 *   runner LIBRARY profile THREADS IN WARMUP RUNS   prints nanoseconds of each operator
 *   runner LIBRARY count   THREADS IN WARMUP        one run with marks before, between and after
 *                                                   the operators, for compiler/estimate/plugin.c
 *
 * IN and OUT are the tensors' bytes one after the other. Exit status: 0, 2 usage, 3 the library
 * reports an error, 4 the result depends on the number of threads, 5 the library wrote outside of
 * its arena or outputs, 6 a file can't be read or written, 7 out of memory. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "edgecc.h"

#define GUARD 64
#define GUARD_BYTE 0xA5
#define EDGECC_MARK 0x45444743 /* no option of prctl: does nothing but show to the plugin */
#define FILL_BYTE 0xFF /* not a number, so that a read of memory nobody wrote shows */

static const edgecc_model *model;
static edgecc_state state;
static unsigned char *arena;
static edgecc_tensor *inputs, *outputs;

static void quit(int code, const char *message) {
  fprintf(stderr, "%s\n", message);
  exit(code);
}

/* nbytes between two guards, aligned to 64 bytes. */
static unsigned char *guarded(uint64_t nbytes) {
  void *block;
  if (nbytes > SIZE_MAX - 4 * GUARD || posix_memalign(&block, GUARD, (size_t)nbytes + 2 * GUARD))
    quit(7, "out of memory");
  memset(block, GUARD_BYTE, (size_t)nbytes + 2 * GUARD);
  memset((unsigned char *)block + GUARD, FILL_BYTE, (size_t)nbytes);
  return (unsigned char *)block + GUARD;
}

static void check_guards(const unsigned char *data, uint64_t nbytes, const char *what) {
  for (int i = 0; i < GUARD; ++i)
    if (data[i - GUARD] != GUARD_BYTE || data[nbytes + (uint64_t)i] != GUARD_BYTE) quit(5, what);
}

static edgecc_tensor *allocate(const edgecc_tensor_info *infos, uint32_t n) {
  edgecc_tensor *tensors = calloc(n + 1, sizeof *tensors);
  if (!tensors) quit(7, "out of memory");
  for (uint32_t i = 0; i < n; ++i) {
    tensors[i].data = guarded(infos[i].nbytes);
    tensors[i].nbytes = infos[i].nbytes;
    tensors[i].shape = infos[i].shape;
    tensors[i].rank = infos[i].rank;
    tensors[i].dtype = infos[i].dtype;
  }
  return tensors;
}

static void read_inputs(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) quit(6, "can't open the input file");
  for (uint32_t i = 0; i < model->n_inputs; ++i)
    if (fread(inputs[i].data, 1, (size_t)inputs[i].nbytes, file) != inputs[i].nbytes)
      quit(6, "the input file is too short");
  fclose(file);
}

static void write_outputs(const char *path) {
  FILE *file = fopen(path, "wb");
  if (!file) quit(6, "can't write the output file");
  for (uint32_t i = 0; i < model->n_outputs; ++i)
    if (fwrite(outputs[i].data, 1, (size_t)outputs[i].nbytes, file) != outputs[i].nbytes)
      quit(6, "can't write the output file");
  if (fclose(file)) quit(6, "can't write the output file");
}

static void check(int status) {
  if (status) quit(3, model->last_error(&state));
}

static void run_once(void) {
  memset(arena, FILL_BYTE, (size_t)model->arena_bytes);
  for (uint32_t i = 0; i < model->n_outputs; ++i)
    memset(outputs[i].data, FILL_BYTE, (size_t)outputs[i].nbytes);
  check(model->run(&state, inputs, outputs));
  check_guards(arena, model->arena_bytes, "the library wrote outside of its arena");
  for (uint32_t i = 0; i < model->n_outputs; ++i)
    check_guards(outputs[i].data, outputs[i].nbytes, "the library wrote outside of an output");
}

static void verify(int threads, const char *out) {
  check(model->set_threads(&state, 1));
  run_once();
  write_outputs(out);
  if (threads == 1) return;
  edgecc_tensor *serial = outputs;
  outputs = allocate(model->outputs, model->n_outputs);
  check(model->set_threads(&state, threads));
  run_once();
  for (uint32_t i = 0; i < model->n_outputs; ++i)
    if (memcmp(serial[i].data, outputs[i].data, (size_t)outputs[i].nbytes))
      quit(4, model->outputs[i].name);
}

static int marking;

/* The library's profile asks for the time before, between and after the operators. This function
 * comes before libc's for it (the runner is linked with -rdynamic), so that any package can be
 * counted as it is. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (marking) {
    prctl(EDGECC_MARK, 0, 0, 0, 0);
    now->tv_sec = now->tv_nsec = 0;
    return 0;
  }
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
  return real(clock, now);
}

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void bench(int warmup, int runs) {
  for (int i = 0; i < warmup + runs; ++i) {
    const long long start = now_ns();
    const int status = model->run(&state, inputs, outputs);
    const long long end = now_ns();
    check(status);
    if (i >= warmup) printf("%lld\n", end - start);
  }
}

static void profile(int warmup, int runs) {
  double *ms = calloc(model->n_operators + 1, sizeof *ms);
  if (!ms) quit(7, "out of memory");
  for (int i = 0; i < warmup + runs; ++i) {
    check(model->profile(&state, inputs, outputs, ms));
    for (uint32_t k = 0; i >= warmup && k < model->n_operators; ++k) printf("%.0f ", ms[k] * 1e6);
    if (i >= warmup) printf("\n");
  }
  free(ms);
}

static void count(int warmup) {
  double *ms = calloc(model->n_operators + 1, sizeof *ms);
  if (!ms) quit(7, "out of memory");
  for (int i = 0; i <= warmup; ++i) {
    marking = i == warmup;
    check(model->profile(&state, inputs, outputs, ms));
  }
  marking = 0;
  free(ms);
}

int main(int argc, char **argv) {
  if (argc < 6) quit(2, "usage: runner LIBRARY verify|bench|profile|count THREADS IN OUT|WARMUP [RUNS]");
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) quit(3, dlerror());
  const edgecc_model *(*entry)(void);
  *(void **)&entry = dlsym(library, "edgecc_model_v1");
  if (!entry) quit(3, "the library has no edgecc_model_v1");
  model = entry();
  if (model->abi_version != EDGECC_ABI_VERSION) quit(3, "the library has another ABI version");
  arena = guarded(model->arena_bytes);
  check(model->init(&state, arena, atoi(argv[3])));
  inputs = allocate(model->inputs, model->n_inputs);
  outputs = allocate(model->outputs, model->n_outputs);
  read_inputs(argv[4]);
  if (!strcmp(argv[2], "verify"))
    verify(atoi(argv[3]), argv[5]);
  else if (!strcmp(argv[2], "bench") && argc > 6)
    bench(atoi(argv[5]), atoi(argv[6]));
  else if (!strcmp(argv[2], "profile") && argc > 6)
    profile(atoi(argv[5]), atoi(argv[6]));
  else if (!strcmp(argv[2], "count"))
    count(atoi(argv[5]));
  else
    quit(2, "unknown mode");
  fprintf(stderr, "threads %d\n", model->threads(&state));
  model->close(&state);
  return dlclose(library);
}
