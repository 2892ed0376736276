/* Times candidates that arrive on its standard input, or counts one from a file.
 *
 *   measurer              serves requests from stdin until it ends; one line of answer for each
 *   measurer facts        prints what its machine is and how it is set: lines of a name and a value
 *   measurer FILE         runs the request in FILE once to warm up and once between two marks, for
 *                         compiler/estimate/plugin.c
 *
 * A request is a line
 *   BYTES THREADS BUDGET_MS SAMPLES TIMEOUT_MS MEMORY_MB COPIES BUFFERS REFERENCE
 * then BUFFERS lines
 *   i KIND SEED BYTES RANK EXTENTS... AXES...   an input: KIND f (float32 in [-1, 1)), b (bytes) or
 *                                               z (zeros); values of the order before transposing
 *                                               [EXTENTS] by AXES
 *   o KIND BYTES                                an output: KIND f (float32) or b
 *   w BYTES                                     a temporary
 * then the BYTES of the shared library. The answer is
 *   ok ERROR CANARY CANARY RUNS NANOSECONDS...  each time is the mean of RUNS runs
 *   failed REASON
 *
 * ERROR is the largest difference to the outputs of the last request with REFERENCE 1, over the
 * largest absolute value there (of bytes: how many differ). What is no number in both is equal. The
 * canary is timed before and after.
 *
 * Each request runs in a process of its own, so that a crash costs one candidate. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "canary.h"

#define EDGECC_MARK 0x45444743 /* the same in compiler/estimate/plugin.c */
#define MAX_BUFFERS 16
#define MAX_RANK 16
#define MAX_SAMPLES 512
#define GUARD 64
#define GUARD_BYTE 0xA5
#define SAMPLE_NS 300000 /* shorter samples are mostly the clock's own noise */

typedef struct buffer {
  char role, kind;
  u64 seed, nbytes;
  int rank;
  u64 extents[MAX_RANK], axes[MAX_RANK];
  unsigned char *data;
} buffer;

typedef struct request {
  u64 library_bytes;
  int threads, budget_ms, samples, timeout_ms, memory_mb, copies, n_buffers, reference;
  buffer buffers[MAX_BUFFERS];
  int library; /* file descriptor */
} request;

static unsigned char *reference; /* shared with the children */
static u64 reference_bytes;
static int answers = STDOUT_FILENO;

static void fail(const char *reason) {
  dprintf(answers, "failed %s\n", reason);
  _exit(1);
}

static int read_buffer(FILE *in, buffer *b) {
  char role[2], kind[2];
  memset(b, 0, sizeof *b);
  if (fscanf(in, " %1s", role) != 1) return -1;
  b->role = role[0];
  if (b->role == 'w') return fscanf(in, "%llu", &b->nbytes) == 1 ? 0 : -1;
  if (fscanf(in, " %1s", kind) != 1) return -1;
  b->kind = kind[0];
  if (b->role == 'o') return fscanf(in, "%llu", &b->nbytes) == 1 ? 0 : -1;
  if (fscanf(in, "%llu %llu %d", &b->seed, &b->nbytes, &b->rank) != 3) return -1;
  if (b->role != 'i' || b->rank < 0 || b->rank > MAX_RANK) return -1;
  for (int i = 0; i < b->rank; ++i)
    if (fscanf(in, "%llu", &b->extents[i]) != 1) return -1;
  for (int i = 0; i < b->rank; ++i)
    if (fscanf(in, "%llu", &b->axes[i]) != 1 || b->axes[i] >= (u64)b->rank) return -1;
  return 0;
}

static int read_library(FILE *in, request *r) {
  static unsigned char block[1 << 16];
  if (fgetc(in) != '\n') return -1;
  r->library = (int)syscall(SYS_memfd_create, "candidate", 1u /* close on exec */);
  for (u64 left = r->library_bytes; left;) {
    const size_t n = fread(block, 1, left < sizeof block ? left : sizeof block, in);
    if (!n || (r->library >= 0 && write(r->library, block, n) != (ssize_t)n)) return -1;
    left -= n;
  }
  return 0;
}

/* 1 when there is a request, 0 at the end, -1 for what is none. */
static int read_request(FILE *in, request *r) {
  const int n = fscanf(in, "%llu %d %d %d %d %d %d %d %d", &r->library_bytes, &r->threads,
                       &r->budget_ms, &r->samples, &r->timeout_ms, &r->memory_mb, &r->copies,
                       &r->n_buffers, &r->reference);
  if (n == EOF) return 0;
  if (n != 9 || r->n_buffers < 1 || r->n_buffers > MAX_BUFFERS || r->copies < 1) return -1;
  for (int i = 0; i < r->n_buffers; ++i)
    if (read_buffer(in, &r->buffers[i])) return -1;
  return read_library(in, r) ? -1 : 1;
}

/* splitmix64 */
static u64 mix(u64 x) {
  x += UINT64_C(0x9E3779B97F4A7C15);
  x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
  return x ^ (x >> 31);
}

static void store(const buffer *b, u64 to, u64 from) {
  const u64 bits = mix(b->seed * UINT64_C(0x100000001) + from);
  if (b->kind == 'f')
    ((float *)b->data)[to] = (float)(long long)(bits >> 40) * 0x1p-23f - 1.0f;
  else
    b->data[to] = b->kind == 'b' ? (unsigned char)(bits >> 56) : 0;
}

static void fill(buffer *b) {
  const u64 n = b->kind == 'f' ? b->nbytes / 4 : b->nbytes;
  u64 strides[MAX_RANK], at[MAX_RANK] = {0}, stride = 1, from = 0;
  for (int i = b->rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= b->extents[i];
  }
  for (u64 to = 0; to < n; ++to) {
    store(b, to, b->rank ? from : to);
    for (int i = b->rank - 1; i >= 0; --i) { /* the next place in the transposed order */
      const u64 axis = b->axes[i];
      from += strides[axis];
      if (++at[i] < b->extents[axis]) break;
      from -= strides[axis] * b->extents[axis];
      at[i] = 0;
    }
  }
}

static unsigned char *guarded(u64 nbytes) {
  void *block;
  if (posix_memalign(&block, GUARD, nbytes + GUARD)) fail("out of memory");
  memset(block, 0xFF, nbytes); /* not a number: memory nobody wrote shows */
  memset((unsigned char *)block + nbytes, GUARD_BYTE, GUARD);
  return block;
}

static double difference(const buffer *b, const unsigned char *expected) {
  if (b->kind != 'f') {
    double differ = 0;
    for (u64 i = 0; i < b->nbytes; ++i) differ += b->data[i] != expected[i];
    return differ;
  }
  const float *got = (const float *)b->data, *want = (const float *)expected;
  double most = 1e-30, error = 0;
  for (u64 i = 0; i < b->nbytes / 4; ++i) {
    if (isnan(want[i]) && isnan(got[i])) continue; /* the root of an input below zero */
    const double delta = fabs((double)got[i] - want[i]);
    if (fabs((double)want[i]) > most) most = fabs((double)want[i]);
    if (!(delta <= error)) error = isnan(delta) ? INFINITY : delta;
  }
  return error / most;
}

static double compare(const request *r) {
  u64 offset = 0;
  double error = 0;
  for (int i = 0; i < r->n_buffers; ++i) {
    const buffer *b = &r->buffers[i];
    for (int k = 0; k < GUARD; ++k)
      if (b->data[b->nbytes + (u64)k] != GUARD_BYTE) fail("wrote behind a buffer");
    if (b->role != 'o') continue;
    if (offset + b->nbytes > reference_bytes) fail("no reference outputs to compare with");
    if (r->reference) memcpy(reference + offset, b->data, b->nbytes);
    const double found = difference(b, reference + offset);
    if (found > error) error = found;
    offset += b->nbytes;
  }
  return error;
}

static int (*candidate_run)(void *const *, int);

static void load(const request *r) {
  char path[32];
  int (*open)(int);
  snprintf(path, sizeof path, "/proc/self/fd/%d", r->library);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(dlerror());
  *(void **)&open = dlsym(library, "edgecc_candidate_open");
  *(void **)&candidate_run = dlsym(library, "edgecc_candidate_run");
  if (!open || !candidate_run) fail("the library is no candidate");
  if (open(r->threads)) fail("out of memory");
}

static void **allocate(request *r) {
  void **sets = calloc((size_t)r->copies * MAX_BUFFERS, sizeof *sets);
  if (!sets) fail("out of memory");
  for (int copy = r->copies - 1; copy >= 0; --copy) /* the first stays in r->buffers */
    for (int i = 0; i < r->n_buffers; ++i) {
      buffer *b = &r->buffers[i];
      b->data = sets[copy * MAX_BUFFERS + i] = guarded(b->nbytes);
      if (b->role == 'i') fill(b);
    }
  return sets;
}

static void run(const request *r, void **sets, int copy) {
  if (candidate_run(sets + (size_t)(copy % r->copies) * MAX_BUFFERS, r->n_buffers))
    fail("the kernel reports an error");
}

static int by_value(const void *a, const void *b) {
  const u64 x = *(const u64 *)a, y = *(const u64 *)b;
  return (x > y) - (x < y);
}

/* Whether the lower quarter of the samples agrees. */
static int settled(const u64 *samples, int n) {
  u64 sorted[MAX_SAMPLES];
  memcpy(sorted, samples, (size_t)n * sizeof *samples);
  qsort(sorted, (size_t)n, sizeof *sorted, by_value);
  return (double)sorted[n / 4] <= 1.01 * (double)sorted[0];
}

static void measure(request *r) {
  u64 samples[MAX_SAMPLES];
  load(r);
  void **sets = allocate(r);
  run(r, sets, 0);
  const double error = compare(r);
  for (int i = 1; i < r->copies; ++i) run(r, sets, i);
  const u64 before = canary(), start = now_ns();
  for (int i = 0; i < r->copies; ++i) run(r, sets, i);
  const u64 once = (now_ns() - start) / (u64)r->copies + 1;
  const u64 runs = once < SAMPLE_NS ? SAMPLE_NS / once + 1 : 1;
  const u64 end = now_ns() + (u64)r->budget_ms * 1000000;
  int n = 0, copy = 0;
  while (n < r->samples || (n < MAX_SAMPLES && now_ns() < end && !settled(samples, n))) {
    const u64 from = now_ns();
    for (u64 i = 0; i < runs; ++i) run(r, sets, copy++ % r->copies);
    samples[n++] = (now_ns() - from) / runs;
    if (n == MAX_SAMPLES) break;
  }
  const u64 after = canary();
  char line[32 * MAX_SAMPLES];
  int used = snprintf(line, sizeof line, "ok %g %llu %llu %llu", error, before, after, runs);
  for (int i = 0; i < n; ++i)
    used += snprintf(line + used, sizeof line - (size_t)used, " %llu", samples[i]);
  line[used++] = '\n';
  if (write(answers, line, (size_t)used) != used) _exit(1);
  _exit(0);
}

static void in_child(request *r, int pipe_end) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  answers = pipe_end;
  if (r->memory_mb) {
    const struct rlimit limit = {(rlim_t)r->memory_mb << 20, (rlim_t)r->memory_mb << 20};
    setrlimit(RLIMIT_AS, &limit);
  }
  measure(r);
}

/* Forwards the child's line, or says how it ended. */
static void await(pid_t child, int from, int timeout_ms) {
  static char line[32 * MAX_SAMPLES + 64];
  size_t used = 0;
  int status = 0, timed_out = 0;
  const u64 end = now_ns() + (u64)timeout_ms * 1000000;
  for (;;) {
    const long long left = (long long)(end - now_ns()) / 1000000;
    struct pollfd waits[] = {{from, POLLIN, 0}, {STDIN_FILENO, 0, 0}};
    const int ready = left > 0 ? poll(waits, 2, (int)left) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if ((timed_out = !ready)) break;
    if (waits[1].revents & POLLHUP) { /* nobody wants the answer any more */
      kill(child, SIGKILL);
      _exit(0);
    }
    const ssize_t n = read(from, line + used, sizeof line - 1 - used);
    if (n <= 0) break;
    used += (size_t)n;
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  if (used && line[used - 1] == '\n')
    fwrite(line, 1, used, stdout);
  else if (timed_out)
    printf("failed no result after %d ms\n", timeout_ms);
  else if (WIFSIGNALED(status))
    printf("failed crashed with signal %d\n", WTERMSIG(status));
  else
    printf("failed ended without a result\n");
  fflush(stdout);
}

static void prepare_reference(const request *r) {
  u64 nbytes = 0;
  for (int i = 0; i < r->n_buffers; ++i)
    if (r->buffers[i].role == 'o') nbytes += r->buffers[i].nbytes;
  if (reference) munmap(reference, reference_bytes);
  reference = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  reference_bytes = nbytes;
  if (reference == MAP_FAILED) reference_bytes = 0, reference = NULL;
}

static int serve(void) {
  request r;
  int got;
  while ((got = read_request(stdin, &r)) > 0) {
    int ends[2];
    if (r.reference) prepare_reference(&r);
    if (r.library < 0 || pipe(ends)) {
      printf("failed out of file descriptors\n");
      fflush(stdout);
      continue;
    }
    const pid_t child = fork();
    if (child == 0) in_child(&r, ends[1]);
    close(ends[1]);
    close(r.library);
    if (child > 0)
      await(child, ends[0], r.timeout_ms);
    else
      printf("failed can't start a process\n"), fflush(stdout);
    close(ends[0]);
  }
  return got ? 2 : 0;
}

static int count(const char *path) {
  request r;
  FILE *in = fopen(path, "rb");
  if (!in || read_request(in, &r) <= 0 || r.library < 0) return 2;
  load(&r);
  void **sets = allocate(&r);
  for (int i = 0; i < r.copies; ++i) run(&r, sets, i);
  prctl(EDGECC_MARK, 0, 0, 0, 0);
  run(&r, sets, 0);
  prctl(EDGECC_MARK, 0, 0, 0, 0);
  _exit(0);
}

/* The first line of a file that starts with `start`, from behind the next colon on. */
static void print_fact(const char *name, const char *path, const char *start) {
  char line[256];
  FILE *in = fopen(path, "r");
  while (in && fgets(line, sizeof line, in)) {
    if (strncmp(line, start, strlen(start))) continue;
    const char *colon = *start ? strchr(line, ':') : NULL;
    const char *value = colon ? colon + 1 : line;
    value += strspn(value, " \t");
    printf("%s %.*s\n", name, (int)strcspn(value, "\n"), value);
    break;
  }
  if (in) fclose(in);
}

static int facts(void) {
  print_fact("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "");
  print_fact("clock_khz", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "");
  print_fact("machine", "/proc/cpuinfo", "model name"); /* x86 */
  print_fact("board", "/proc/cpuinfo", "Model");        /* Raspberry Pi */
  print_fact("kernel", "/proc/sys/kernel/osrelease", "");
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 2) return serve();
  return strcmp(argv[1], "facts") ? count(argv[1]) : facts();
}
