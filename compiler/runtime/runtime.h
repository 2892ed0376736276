/* What the runtime's C files and the generated entry share. Nothing here is visible outside. */
#ifndef EDGECC_RUNTIME_H
#define EDGECC_RUNTIME_H

#include <stdatomic.h>
#include <stdbool.h>

#include "edgecc.h"

#define EDGECC_MESSAGE_BYTES 384

/* What one thread knows while it executes kernels. */
typedef struct edgecc_context {
  unsigned char *scratch; /* kernel workspace of this thread */
  uint64_t scratch_used;
  int threads;  /* a launch may use this many */
  int parallel; /* inside a parallel task: further launches run serially */
  char message[EDGECC_MESSAGE_BYTES]; /* why the kernel failed */
} edgecc_context;

/* Lives inside edgecc_state. */
typedef struct edgecc_instance {
  uint64_t magic;
  unsigned char *arena;
  void *owned; /* block that close frees, or NULL */
  int32_t threads;
  atomic_int running;
  char error[EDGECC_MESSAGE_BYTES];
} edgecc_instance;

/* From the generated entry. */
extern const edgecc_model edgecc_descriptor;
extern const uint64_t edgecc_scratch_bytes; /* kernel workspace of one thread */
extern const uint64_t edgecc_scratch_offset; /* the caller's workspace within the arena */
extern const char *const edgecc_cpu_features[]; /* LLVM names, NULL at the end */
extern int32_t edgecc_step(uint32_t i, const edgecc_tensor *in, const edgecc_tensor *out,
                           unsigned char *arena);

/* clock.c */
extern double edgecc_clock_ghz(void);

/* cpu.c */
extern const char *edgecc_missing_cpu_feature(void); /* NULL when this CPU has all */

/* threads.c */
extern void edgecc_set_context(edgecc_context *context); /* NULL to clear */
extern int edgecc_resolve_threads(int asked);
extern int edgecc_pool_open(int threads);   /* 0, or -1 when memory or a thread key can't be had */
extern int edgecc_pool_resize(int threads); /* as open, without a new user */
extern void edgecc_pool_close(void);
extern void edgecc_pool_after_fork(void);
extern void edgecc_pool_spin(uint32_t worker_us, uint32_t caller_us);
extern uint64_t edgecc_now_ns(void);

/* model.c */
extern int edgecc_init(edgecc_state *state, void *arena, int threads);
extern int edgecc_run(edgecc_state *state, const edgecc_tensor *inputs,
                      const edgecc_tensor *outputs);
extern int edgecc_profile(edgecc_state *state, const edgecc_tensor *inputs,
                          const edgecc_tensor *outputs, double *ms);
extern int edgecc_set_threads(edgecc_state *state, int threads);
extern int edgecc_set_spin(edgecc_state *state, uint32_t worker_us, uint32_t caller_us);
extern const char *edgecc_last_error(const edgecc_state *state);
extern int edgecc_threads(const edgecc_state *state);
extern void edgecc_close(edgecc_state *state);

/* tvm_ffi.c */
extern int edgecc_tvm_main(void *self, const void *arguments, int32_t n_args, void *result);
extern int edgecc_tvm_set_threads(void *self, const void *arguments, int32_t n_args, void *result);

#endif
