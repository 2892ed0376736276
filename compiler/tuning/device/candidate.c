/* What a candidate needs beside its kernel: the runtime's thread pool, and an entry that does not
 * depend on the kernel's signature. Linked with threads.c and the kernel's object. */
#include <stdlib.h>

#include "runtime.h"

#define SCRATCH_BYTES (UINT64_C(16) << 20)

/* threads.c reads these of a whole model. */
const edgecc_model edgecc_descriptor = {.default_threads = 1};
const uint64_t edgecc_scratch_bytes = SCRATCH_BYTES;

extern int32_t edgecc_kernel(); /* any number of pointers */

static edgecc_context context;

/* Starts the threads; 0, or -1 when memory can't be had. */
__attribute__((visibility("default"))) int edgecc_candidate_open(int threads) {
  void *scratch;
  if (context.scratch) return 0;
  if (edgecc_pool_open(threads) || posix_memalign(&scratch, 64, SCRATCH_BYTES)) return -1;
  context.scratch = scratch;
  context.threads = threads;
  edgecc_set_context(&context);
  return 0;
}

/* Runs the kernel on its buffers; its status, or -1 for a number of them it can't have. */
__attribute__((visibility("default"))) int edgecc_candidate_run(void *const *b, int n) {
#define A4(i) b[i], b[i + 1], b[i + 2], b[i + 3]
  switch (n) {
    case 1: return edgecc_kernel(b[0]);
    case 2: return edgecc_kernel(b[0], b[1]);
    case 3: return edgecc_kernel(b[0], b[1], b[2]);
    case 4: return edgecc_kernel(A4(0));
    case 5: return edgecc_kernel(A4(0), b[4]);
    case 6: return edgecc_kernel(A4(0), b[4], b[5]);
    case 7: return edgecc_kernel(A4(0), b[4], b[5], b[6]);
    case 8: return edgecc_kernel(A4(0), A4(4));
    case 9: return edgecc_kernel(A4(0), A4(4), b[8]);
    case 10: return edgecc_kernel(A4(0), A4(4), b[8], b[9]);
    case 11: return edgecc_kernel(A4(0), A4(4), b[8], b[9], b[10]);
    case 12: return edgecc_kernel(A4(0), A4(4), A4(8));
    default: return -1;
  }
}
