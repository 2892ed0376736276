/* Instances of a model: checks of what the caller passes, and the loop over operators. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

#define MAGIC UINT64_C(0x6564676563630001)
#define MAGIC_FAILED UINT64_C(0x6564676563630002) /* init failed: only the error text is valid */

_Static_assert(sizeof(edgecc_instance) <= sizeof(edgecc_state), "edgecc_state is too small");

static int fail(edgecc_instance *self, int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(self->error, sizeof self->error, format, arguments);
  va_end(arguments);
  return status;
}

static const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {"?",     "bool",   "int8",  "uint8",  "int16",
                                      "uint16", "int32",  "uint32", "int64", "uint64",
                                      "float16", "bfloat16", "float32", "float64"};
  return dtype >= 1 && dtype <= 13 ? names[dtype] : "unknown";
}

static uint32_t element_bytes(int32_t dtype) {
  static const unsigned char bytes[] = {1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
  return bytes[dtype];
}

static void shape_text(char *text, size_t size, const int64_t *shape, int32_t rank) {
  size_t used = 0;
  if (rank == 0 && size > 7) memcpy(text, "scalar", 7);
  for (int32_t i = 0; i < rank && used + 24 < size; ++i)
    used += (size_t)snprintf(text + used, size - used, i ? "x%lld" : "%lld", (long long)shape[i]);
}

static int check_shape(edgecc_instance *self, const char *what, const edgecc_tensor *got,
                       const edgecc_tensor_info *want) {
  char got_text[80], want_text[80];
  bool same = true;
  if (got->shape) {
    same = got->rank == want->rank;
    for (int32_t i = 0; same && i < want->rank; ++i) same = got->shape[i] == want->shape[i];
  }
  if (!same) {
    if (got->rank < 0 || got->rank > 16)
      snprintf(got_text, sizeof got_text, "rank %d", (int)got->rank);
    else
      shape_text(got_text, sizeof got_text, got->shape, got->rank);
    shape_text(want_text, sizeof want_text, want->shape, want->rank);
    return fail(self, EDGECC_ERROR_SHAPE, "%s '%.80s' has shape %s, the model wants %s", what,
                want->name, got_text, want_text);
  }
  if (got->nbytes != want->nbytes)
    return fail(self, EDGECC_ERROR_SHAPE, "%s '%.80s' has %llu bytes, the model wants %llu", what,
                want->name, (unsigned long long)got->nbytes, (unsigned long long)want->nbytes);
  return EDGECC_OK;
}

static int check_tensor(edgecc_instance *self, const char *what, const edgecc_tensor *got,
                        const edgecc_tensor_info *want) {
  if (got->dtype != want->dtype)
    return fail(self, EDGECC_ERROR_DTYPE, "%s '%.80s' is %s, the model wants %s", what, want->name,
                dtype_name(got->dtype), dtype_name(want->dtype));
  int status = check_shape(self, what, got, want);
  if (status) return status;
  if (!got->data && want->nbytes)
    return fail(self, EDGECC_ERROR_NULL, "%s '%.80s': data is NULL", what, want->name);
  if ((uintptr_t)got->data % element_bytes(want->dtype))
    return fail(self, EDGECC_ERROR_ALIGNMENT, "%s '%.80s': data is not aligned to %u bytes", what,
                want->name, (unsigned)element_bytes(want->dtype));
  return EDGECC_OK;
}

static bool overlap(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes) {
  return a_bytes && b_bytes && (uintptr_t)a < (uintptr_t)b + b_bytes &&
         (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static int check_overlap(edgecc_instance *self, const edgecc_tensor *in, const edgecc_tensor *out) {
  const edgecc_model *model = &edgecc_descriptor;
  for (uint32_t o = 0; o < model->n_outputs; ++o) {
    const char *name = model->outputs[o].name;
    for (uint32_t i = 0; i < model->n_inputs; ++i)
      if (overlap(out[o].data, out[o].nbytes, in[i].data, in[i].nbytes))
        return fail(self, EDGECC_ERROR_OVERLAP, "output '%.80s' overlaps input '%.80s'", name,
                    model->inputs[i].name);
    for (uint32_t i = 0; i < o; ++i)
      if (overlap(out[o].data, out[o].nbytes, out[i].data, out[i].nbytes))
        return fail(self, EDGECC_ERROR_OVERLAP, "output '%.80s' overlaps output '%.80s'", name,
                    model->outputs[i].name);
    if (overlap(out[o].data, out[o].nbytes, self->arena, model->arena_bytes))
      return fail(self, EDGECC_ERROR_OVERLAP, "output '%.80s' overlaps the arena", name);
  }
  for (uint32_t i = 0; i < model->n_inputs; ++i)
    if (overlap(in[i].data, in[i].nbytes, self->arena, model->arena_bytes))
      return fail(self, EDGECC_ERROR_OVERLAP, "input '%.80s' overlaps the arena",
                  model->inputs[i].name);
  return EDGECC_OK;
}

static int check_all(edgecc_instance *self, const edgecc_tensor *in, const edgecc_tensor *out) {
  const edgecc_model *model = &edgecc_descriptor;
  if ((!in && model->n_inputs) || (!out && model->n_outputs))
    return fail(self, EDGECC_ERROR_NULL, "%s is NULL", !in && model->n_inputs ? "inputs" : "outputs");
  for (uint32_t i = 0; i < model->n_inputs; ++i) {
    int status = check_tensor(self, "input", &in[i], &model->inputs[i]);
    if (status) return status;
  }
  for (uint32_t i = 0; i < model->n_outputs; ++i) {
    int status = check_tensor(self, "output", &out[i], &model->outputs[i]);
    if (status) return status;
  }
  return check_overlap(self, in, out);
}

static int execute(edgecc_instance *self, const edgecc_tensor *in, const edgecc_tensor *out,
                   double *ms) {
  edgecc_context context;
  context.scratch = self->arena + edgecc_scratch_offset;
  context.scratch_used = 0;
  context.threads = self->threads;
  context.parallel = 0;
  context.message[0] = 0;
  edgecc_pool_after_fork();
  edgecc_set_context(&context);
  int status = EDGECC_OK;
  uint64_t before = ms ? edgecc_now_ns() : 0;
  for (uint32_t i = 0; i < edgecc_descriptor.n_operators; ++i) {
    int32_t code = edgecc_step(i, in, out, self->arena);
    if (code) {
      status = fail(self, EDGECC_ERROR_OPERATOR, "operator %u (%.120s) failed with code %d%s%.160s",
                    (unsigned)i, edgecc_descriptor.operators[i].label, (int)code,
                    context.message[0] ? ": " : "", context.message);
      break;
    }
    if (ms) {
      uint64_t after = edgecc_now_ns();
      ms[i] = (double)(after - before) * 1e-6;
      before = after;
    }
  }
  edgecc_set_context(NULL);
  return status;
}

static int enter(edgecc_state *state, const edgecc_tensor *in, const edgecc_tensor *out,
                 double *ms) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self || self->magic != MAGIC) return EDGECC_ERROR_NULL;
  /* The error text belongs to the thread that runs, so a second one must not write it. */
  if (atomic_exchange_explicit(&self->running, 1, memory_order_acquire)) return EDGECC_ERROR_BUSY;
  self->error[0] = 0;
  int status = check_all(self, in, out);
  if (!status) status = execute(self, in, out, ms);
  atomic_store_explicit(&self->running, 0, memory_order_release);
  return status;
}

int edgecc_run(edgecc_state *state, const edgecc_tensor *inputs, const edgecc_tensor *outputs) {
  return enter(state, inputs, outputs, NULL);
}

int edgecc_profile(edgecc_state *state, const edgecc_tensor *inputs, const edgecc_tensor *outputs,
                   double *ms) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self || self->magic != MAGIC) return EDGECC_ERROR_NULL;
  if (!ms) return fail(self, EDGECC_ERROR_NULL, "ms is NULL");
  return enter(state, inputs, outputs, ms);
}

static int take_arena(edgecc_instance *self, void *arena) {
  const uint64_t bytes = edgecc_descriptor.arena_bytes;
  if ((uintptr_t)arena % EDGECC_ARENA_ALIGNMENT)
    return fail(self, EDGECC_ERROR_ALIGNMENT, "the arena is not aligned to %d bytes",
                EDGECC_ARENA_ALIGNMENT);
  if (!arena && bytes) {
    if (bytes <= SIZE_MAX - EDGECC_ARENA_ALIGNMENT)
      self->owned = malloc((size_t)bytes + EDGECC_ARENA_ALIGNMENT);
    if (!self->owned)
      return fail(self, EDGECC_ERROR_MEMORY, "can't allocate the arena of %llu bytes",
                  (unsigned long long)bytes);
    const uintptr_t up = (uintptr_t)self->owned + EDGECC_ARENA_ALIGNMENT - 1;
    arena = (void *)(up - up % EDGECC_ARENA_ALIGNMENT);
  }
  self->arena = arena;
  return EDGECC_OK;
}

int edgecc_init(edgecc_state *state, void *arena, int threads) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self) return EDGECC_ERROR_NULL;
  memset(self, 0, sizeof *self);
  self->magic = MAGIC_FAILED;
  const char *feature = edgecc_missing_cpu_feature();
  if (feature)
    return fail(self, EDGECC_ERROR_CPU, "this CPU has no %s, which a library for %.80s needs",
                feature, edgecc_descriptor.target);
  int status = take_arena(self, arena);
  if (status) return status;
  self->threads = edgecc_resolve_threads(threads);
  if (edgecc_pool_open(self->threads)) {
    free(self->owned);
    self->owned = NULL;
    return fail(self, EDGECC_ERROR_MEMORY, "can't allocate what the threads need");
  }
  self->magic = MAGIC;
  return EDGECC_OK;
}

int edgecc_set_threads(edgecc_state *state, int threads) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self || self->magic != MAGIC) return EDGECC_ERROR_NULL;
  if (atomic_load(&self->running)) return EDGECC_ERROR_BUSY;
  threads = edgecc_resolve_threads(threads);
  if (edgecc_pool_resize(threads))
    return fail(self, EDGECC_ERROR_MEMORY, "can't allocate the workers' memory");
  self->threads = threads;
  return EDGECC_OK;
}

int edgecc_set_spin(edgecc_state *state, uint32_t worker_us, uint32_t caller_us) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self || self->magic != MAGIC) return EDGECC_ERROR_NULL;
  edgecc_pool_spin(worker_us, caller_us);
  return EDGECC_OK;
}

const char *edgecc_last_error(const edgecc_state *state) {
  const edgecc_instance *self = (const edgecc_instance *)state;
  if (!self) return "state is NULL";
  if (self->magic != MAGIC && self->magic != MAGIC_FAILED) return "the state is not initialised";
  return self->error;
}

int edgecc_threads(const edgecc_state *state) {
  const edgecc_instance *self = (const edgecc_instance *)state;
  return self && self->magic == MAGIC ? self->threads : 0;
}

void edgecc_close(edgecc_state *state) {
  edgecc_instance *self = (edgecc_instance *)state;
  if (!self || self->magic != MAGIC) return;
  self->magic = 0;
  free(self->owned);
  self->owned = NULL;
  edgecc_pool_close();
}
