/* What a candidate needs beside its kernel: the runtime's thread pool, and entries that do not
 * depend on the kernel's signature: one for the measuring program, and four in TVM's calling
 * convention for its RPC server. Linked with threads.c and the kernel's object; without a kernel it
 * is a probe, which tells whether a server can run candidates at all. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "canary.h"
#include "runtime.h"
#include "tvm_ffi.h"

#define SCRATCH_BYTES (UINT64_C(16) << 20)
#define MAX_BUFFERS 16
#define EXPORT __attribute__((visibility("default")))
#define TVM_ENTRY(name) \
  EXPORT int __tvm_ffi_##name(void *self, const TVMFFIAny *args, int32_t n, TVMFFIAny *result)

/* threads.c reads these of a whole model. */
const edgecc_model edgecc_descriptor = {.default_threads = 1};
const uint64_t edgecc_scratch_bytes = SCRATCH_BYTES;

extern int32_t edgecc_kernel() __attribute__((weak)); /* any number of pointers */

static edgecc_context context;

/* Starts the threads; 0, or -1 when memory can't be had. */
EXPORT int edgecc_candidate_open(int threads) {
  void *scratch;
  if (context.scratch) return 0;
  if (edgecc_pool_open(threads) || posix_memalign(&scratch, 64, SCRATCH_BYTES)) return -1;
  context.scratch = scratch;
  context.threads = threads;
  edgecc_set_context(&context);
  return 0;
}

/* Runs the kernel on its buffers; its status, or -1 for a number of them it can't have. */
EXPORT int edgecc_candidate_run(void *const *b, int n) {
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

static int raise_error(const char *kind, const char *message) {
  __TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

static int give(TVMFFIAny *result, int64_t value) {
  memset(result, 0, sizeof *result);
  result->type_index = TYPE_INT;
  result->v_int64 = value;
  return 0;
}

/* The tensors' memory; 0, or -1 with an exception. */
static int addresses(const TVMFFIAny *args, int32_t n, void **buffers) {
  if (n < 1 || n > MAX_BUFFERS) return raise_error("TypeError", "too few or too many tensors");
  for (int32_t i = 0; i < n; ++i) {
    const DLTensor *tensor = edgecc_tensor_of(&args[i]);
    if (!tensor) return raise_error("TypeError", "an argument is not a tensor");
    buffers[i] = (char *)tensor->data + tensor->byte_offset;
  }
  return 0;
}

/* canary() -> nanoseconds */
TVM_ENTRY(canary) {
  (void)self, (void)args, (void)n;
  return give(result, (int64_t)canary());
}

/* Lets this process map so much more than it has by now, which here is mostly the server's. */
static void limit_memory(int64_t megabytes) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file) return;
  if (fscanf(file, "%lu", &pages) == 1) {
    const rlim_t most = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)megabytes << 20);
    const struct rlimit limit = {most, most};
    setrlimit(RLIMIT_AS, &limit);
  }
  fclose(file);
}

typedef struct {
  int64_t threads, timeout_ms, memory_mb; /* 0 MB: no limit */
} limits;

static void run_in_child(const limits *l, void *const *buffers, int32_t n) {
  static const int deadly[] = {SIGALRM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
  const struct itimerval timer = {{0, 0}, {l->timeout_ms / 1000, l->timeout_ms % 1000 * 1000}};
  const struct rlimit no_core = {0, 0};
  sigset_t all;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CORE, &no_core);
  for (size_t i = 0; i < sizeof deadly / sizeof *deadly; ++i) signal(deadly[i], SIG_DFL);
  sigfillset(&all);
  sigprocmask(SIG_UNBLOCK, &all, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  if (l->memory_mb) limit_memory(l->memory_mb);
  if (edgecc_candidate_open((int)l->threads)) _exit(2);
  _exit(edgecc_candidate_run(buffers, n) ? 1 : 0);
}

/* check(threads, timeout_ms, memory_mb, tensor...) -> 0; 1: the kernel failed; 2: out of memory;
 * 128 + signal.
 *
 * Runs the kernel once in a process of its own: one that crashes, hangs or takes all memory would
 * take the session and with it TVM's server along. The memory is beside the tensors', which the
 * server has allocated; the runs that are timed have no limit, they do the same again. */
TVM_ENTRY(check) {
  void *buffers[MAX_BUFFERS];
  int status = 0;
  (void)self;
  for (int32_t i = 0; i < 3; ++i)
    if (n < 3 || args[i].type_index != TYPE_INT)
      return raise_error("TypeError", "check takes threads, milliseconds, megabytes and tensors");
  if (addresses(args + 3, n - 3, buffers)) return -1;
  const limits l = {args[0].v_int64, args[1].v_int64, args[2].v_int64};
  const pid_t child = fork();
  if (child == 0) run_in_child(&l, buffers, n - 3);
  if (child < 0) return raise_error("RuntimeError", "can't start a process");
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return raise_error("RuntimeError", "can't wait for a process");
  return give(result, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static int32_t n_buffers;

/* open(threads, buffers): before run. */
TVM_ENTRY(open) {
  (void)self;
  if (n != 2 || args[0].type_index != TYPE_INT || args[1].type_index != TYPE_INT)
    return raise_error("TypeError", "open takes threads and the number of buffers");
  n_buffers = (int32_t)args[1].v_int64;
  if (edgecc_candidate_open((int)args[0].v_int64))
    return raise_error("MemoryError", "out of memory");
  return give(result, 0);
}

/* run(tensor...): of one set of buffers or several, which calls take in turns. */
TVM_ENTRY(run) {
  static uint32_t calls;
  void *buffers[MAX_BUFFERS];
  (void)self;
  if (n_buffers < 1 || n < n_buffers || n % n_buffers)
    return raise_error("TypeError", "run takes whole sets of buffers");
  const uint32_t set = calls++ % (uint32_t)(n / n_buffers);
  if (addresses(args + set * (uint32_t)n_buffers, n_buffers, buffers)) return -1;
  if (edgecc_candidate_run(buffers, n_buffers))
    return raise_error("RuntimeError", "the kernel reports an error");
  memset(result, 0, sizeof *result);
  return 0;
}
