/* The thread pool, and the few functions of TVM's runtime that kernels call.
 *
 * One pool a library. A launch publishes a set of tasks as a bit mask; the caller and the workers
 * claim bits, each its own first (so that a core keeps its data), then whatever is left. A worker
 * that wakes late therefore costs nothing: the caller does its share. Idle workers spin for a while
 * on the launch counter, then sleep in a futex. When the pool is taken, a second caller runs its
 * tasks itself. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

/* TVM's public C ABI of parallel kernels (include/tvm/runtime/c_backend_api.h). */
typedef struct TVMParallelGroupEnv {
  void *sync_handle;
  int32_t num_task;
} TVMParallelGroupEnv;
typedef int (*FTVMParallelLambda)(int task_id, TVMParallelGroupEnv *env, void *closure);

#define WORKER_STACK_BYTES (1 << 20)

typedef struct worker {
  pthread_t thread;
  int index;
  edgecc_context context;
} worker;

static struct {
  pthread_mutex_t lock; /* guards users, n_workers, pid and starting or stopping workers */
  int users;
  int n_workers;
  pid_t pid;
  worker *workers[EDGECC_MAX_THREADS];
  atomic_uint worker_spin_us, caller_spin_us;

  atomic_int taken;     /* a launch is in progress */
  atomic_uint launches; /* futex of idle workers */
  atomic_uint sleepers;
  atomic_int stop;

  _Atomic uint64_t pending; /* tasks nobody has claimed yet */
  atomic_uint unfinished;   /* futex of the waiting caller */
  atomic_uint caller_sleeps;
  atomic_int failed;
  FTVMParallelLambda lambda;
  void *closure;
  TVMParallelGroupEnv env;
  char message[EDGECC_MESSAGE_BYTES];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .worker_spin_us = 50, .caller_spin_us = 50};

/* Exists while there are instances: a process has few keys, and may load many libraries. */
static pthread_key_t context_key;

static edgecc_context *get_context(void) { return pthread_getspecific(context_key); }

void edgecc_set_context(edgecc_context *context) { pthread_setspecific(context_key, context); }

uint64_t edgecc_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void futex_wait(atomic_uint *word, unsigned value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#elif defined(__riscv)
  __asm__ volatile(".4byte 0x0100000f"); /* pause; a no-op where Zihintpause is missing */
#endif
}

/* Spins until *word differs from value; false when the time is up. */
static bool spin_while(atomic_uint *word, unsigned value, unsigned microseconds) {
  if (atomic_load_explicit(word, memory_order_acquire) != value) return true;
  if (!microseconds) return false;
  const uint64_t end = edgecc_now_ns() + (uint64_t)microseconds * 1000;
  do {
    for (int i = 0; i < 64; ++i) {
      if (atomic_load_explicit(word, memory_order_acquire) != value) return true;
      relax();
    }
  } while (edgecc_now_ns() < end);
  return false;
}

/* Takes a task, `preferred` if it is free; -1 when none is left. */
static int claim(int preferred) {
  uint64_t tasks = atomic_load_explicit(&pool.pending, memory_order_acquire);
  while (tasks) {
    const int task = tasks >> preferred & 1 ? preferred : __builtin_ctzll(tasks);
    if (atomic_compare_exchange_weak_explicit(&pool.pending, &tasks,
                                              tasks & ~(UINT64_C(1) << task),
                                              memory_order_acq_rel, memory_order_acquire))
      return task;
  }
  return -1;
}

static void do_tasks(edgecc_context *context, int preferred) {
  for (int task; (task = claim(preferred)) >= 0;) {
    /* The launch can't end before this task does, so its fields are stable from here. */
    const uint64_t scratch_used = context->scratch_used;
    context->message[0] = 0;
    if (pool.lambda(task, &pool.env, pool.closure) &&
        !atomic_exchange_explicit(&pool.failed, 1, memory_order_relaxed))
      memcpy(pool.message, context->message, sizeof pool.message);
    context->scratch_used = scratch_used;
    if (atomic_fetch_sub(&pool.unfinished, 1) == 1 && atomic_load(&pool.caller_sleeps))
      futex_wake(&pool.unfinished, 1);
  }
}

static void *work(void *argument) {
  worker *self = argument;
  edgecc_set_context(&self->context);
  unsigned seen = 0; /* a launch before this thread got going counts as news */
  while (!atomic_load_explicit(&pool.stop, memory_order_acquire)) {
    if (!spin_while(&pool.launches, seen, atomic_load(&pool.worker_spin_us))) {
      atomic_fetch_add(&pool.sleepers, 1);
      while (atomic_load(&pool.launches) == seen) futex_wait(&pool.launches, seen);
      atomic_fetch_sub(&pool.sleepers, 1);
    }
    seen = atomic_load_explicit(&pool.launches, memory_order_acquire);
    do_tasks(&self->context, self->index);
  }
  edgecc_set_context(NULL);
  return NULL;
}

static int launch_serial(edgecc_context *context, FTVMParallelLambda lambda, void *closure,
                         int num_task) {
  TVMParallelGroupEnv env = {NULL, num_task};
  const int nested = context ? context->parallel : 0;
  int code = 0;
  if (context) context->parallel = 1;
  for (int task = 0; task < num_task && !code; ++task) code = lambda(task, &env, closure);
  if (context) context->parallel = nested;
  return code;
}

static int launch(FTVMParallelLambda lambda, void *closure, int num_task) {
  edgecc_context *context = get_context();
  const int threads = context && !context->parallel ? context->threads : 1;
  if (threads < 2 || num_task == 1 || num_task > EDGECC_MAX_THREADS ||
      atomic_exchange_explicit(&pool.taken, 1, memory_order_acquire))
    return launch_serial(context, lambda, closure, num_task > 0 ? num_task : 1);

  if (num_task <= 0) num_task = threads;
  pool.lambda = lambda;
  pool.closure = closure;
  pool.env.sync_handle = NULL;
  pool.env.num_task = num_task;
  atomic_store_explicit(&pool.failed, 0, memory_order_relaxed);
  atomic_store_explicit(&pool.unfinished, (unsigned)num_task, memory_order_relaxed);
  atomic_store_explicit(&pool.pending, UINT64_MAX >> (64 - num_task), memory_order_release);
  atomic_fetch_add(&pool.launches, 1);
  if (atomic_load(&pool.sleepers)) futex_wake(&pool.launches, num_task - 1);

  context->parallel = 1;
  do_tasks(context, 0);
  context->parallel = 0;
  for (unsigned left; (left = atomic_load_explicit(&pool.unfinished, memory_order_acquire));) {
    if (spin_while(&pool.unfinished, left, atomic_load(&pool.caller_spin_us))) continue;
    atomic_store(&pool.caller_sleeps, 1);
    if (atomic_load(&pool.unfinished) == left) futex_wait(&pool.unfinished, left);
    atomic_store(&pool.caller_sleeps, 0);
  }
  const int failed = atomic_load_explicit(&pool.failed, memory_order_relaxed);
  if (failed) memcpy(context->message, pool.message, sizeof pool.message);
  atomic_store_explicit(&pool.taken, 0, memory_order_release);
  return failed ? -1 : 0;
}

int edgecc_resolve_threads(int asked) {
  if (asked <= 0) {
    cpu_set_t set;
    int online = 1;
    if (!sched_getaffinity(0, sizeof set, &set)) online = CPU_COUNT(&set);
    asked = (int)edgecc_descriptor.default_threads;
    if (asked > online) asked = online;
  }
  if (asked > EDGECC_MAX_THREADS) asked = EDGECC_MAX_THREADS;
  return asked < 1 ? 1 : asked;
}

/* With pool.lock held. Fewer workers than asked for only make it slower. */
static int start_worker(void) {
  const int index = pool.n_workers + 1;
  if (edgecc_scratch_bytes > SIZE_MAX / 2) return -1;
  unsigned char *block = malloc(sizeof(worker) + (size_t)edgecc_scratch_bytes + 64);
  if (!block) return -1;
  worker *self = (worker *)block;
  memset(self, 0, sizeof *self);
  const uintptr_t up = (uintptr_t)(block + sizeof(worker) + 63);
  self->index = index;
  self->context.scratch = (unsigned char *)(up - up % 64);
  self->context.threads = 1;
  self->context.parallel = 1;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
  sigset_t all, before; /* the application's signals are not for the workers */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int code = pthread_create(&self->thread, &attributes, work, self);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (code) {
    free(block);
    return 1;
  }
  pool.workers[index] = self;
  ++pool.n_workers;
  return 0;
}

static int grow(int threads) {
  int code = 0;
  while (!code && pool.n_workers + 1 < threads) code = start_worker();
  return code < 0 ? -1 : 0;
}

static void stop_workers(void) {
  atomic_store(&pool.stop, 1);
  atomic_fetch_add(&pool.launches, 1);
  futex_wake(&pool.launches, EDGECC_MAX_THREADS);
  for (int i = 1; i <= pool.n_workers; ++i) {
    pthread_join(pool.workers[i]->thread, NULL);
    free(pool.workers[i]);
    pool.workers[i] = NULL;
  }
  pool.n_workers = 0;
  atomic_store(&pool.stop, 0);
}

/* With pool.lock held: a child process has none of its parent's workers. */
static void forget_workers_of_parent(void) {
  if (pool.pid == getpid()) return;
  pool.pid = getpid();
  pool.n_workers = 0;
  atomic_store(&pool.taken, 0);
  atomic_store(&pool.pending, 0);
  atomic_store(&pool.sleepers, 0);
}

void edgecc_pool_after_fork(void) {
  if (pool.pid == getpid()) return;
  pthread_mutex_lock(&pool.lock);
  const int threads = pool.n_workers + 1;
  if (pool.pid != getpid()) {
    forget_workers_of_parent();
    grow(threads);
  }
  pthread_mutex_unlock(&pool.lock);
}

int edgecc_pool_open(int threads) {
  pthread_mutex_lock(&pool.lock);
  forget_workers_of_parent();
  int code = pool.users || !pthread_key_create(&context_key, NULL) ? 0 : -1;
  if (!code && (code = grow(threads)) && !pool.users) {
    stop_workers();
    pthread_key_delete(context_key);
  }
  if (!code) ++pool.users;
  pthread_mutex_unlock(&pool.lock);
  return code;
}

int edgecc_pool_resize(int threads) {
  pthread_mutex_lock(&pool.lock);
  forget_workers_of_parent();
  const int code = grow(threads);
  pthread_mutex_unlock(&pool.lock);
  return code;
}

void edgecc_pool_close(void) {
  pthread_mutex_lock(&pool.lock);
  forget_workers_of_parent();
  if (--pool.users == 0) {
    stop_workers();
    pthread_key_delete(context_key);
  }
  pthread_mutex_unlock(&pool.lock);
}

void edgecc_pool_spin(uint32_t worker_us, uint32_t caller_us) {
  atomic_store(&pool.worker_spin_us, worker_us);
  atomic_store(&pool.caller_spin_us, caller_us);
}

__attribute__((destructor)) static void unload(void) {
  if (pool.pid == getpid()) stop_workers();
  if (pool.users) pthread_key_delete(context_key);
}

/* What kernels call. Their object code reads the pointers, as TVM's code generator wants it. */
static void *allocate_workspace(int device_type, int device_id, uint64_t nbytes, int dtype_code,
                                int dtype_bits) {
  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
  edgecc_context *context = get_context();
  if (!context) return NULL;
  const uint64_t room = edgecc_scratch_bytes - context->scratch_used;
  if (nbytes > room) {
    snprintf(context->message, sizeof context->message,
             "needs %llu bytes of workspace, %llu are left", (unsigned long long)nbytes,
             (unsigned long long)room);
    return NULL;
  }
  void *block = context->scratch + context->scratch_used;
  context->scratch_used += (nbytes + 63) & ~UINT64_C(63);
  return block;
}

static int free_workspace(int device_type, int device_id, void *block) {
  (void)device_type, (void)device_id;
  edgecc_context *context = get_context();
  if (!context || !block) return -1;
  /* Kernels free in the reverse order of allocation. */
  context->scratch_used = (uint64_t)((unsigned char *)block - context->scratch);
  return 0;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t n_parts) {
  edgecc_context *context = get_context();
  if (!context) return;
  size_t used = 0;
  used += (size_t)snprintf(context->message, sizeof context->message, "%.40s: ", kind);
  for (int32_t i = 0; i < n_parts && used < sizeof context->message; ++i)
    if (parts[i])
      used += (size_t)snprintf(context->message + used, sizeof context->message - used, "%s",
                               parts[i]);
}

static void raise_error(const char *kind, const char *message) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, &message, 1);
}

int TVMBackendParallelLaunch(FTVMParallelLambda lambda, void *closure, int num_task) {
  return launch(lambda, closure, num_task);
}

void *TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t nbytes, int dtype_code,
                               int dtype_bits) {
  return allocate_workspace(device_type, device_id, nbytes, dtype_code, dtype_bits);
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void *block) {
  return free_workspace(device_type, device_id, block);
}

int (*__TVMBackendParallelLaunch)(FTVMParallelLambda, void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate_workspace;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = free_workspace;
/* The one pointer that is visible outside: TVM's module loader puts its own function here. */
__attribute__((visibility("default"))) void (*__TVMFFIErrorSetRaisedFromCStr)(
    const char *, const char *) = raise_error;
