/* The functions that kernels may call, for one thread. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  void *sync_handle;
  int32_t num_task;
} environment;

static int launch(int (*body)(int, environment *, void *), void *closure, int num_task) {
  (void)num_task;
  environment one = {0, 1};
  return body(0, &one, closure);
}

static void *allocate(int device_type, int device_id, uint64_t nbytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  return aligned_alloc(64, (nbytes + 63) / 64 * 64);
}

static int release(int device_type, int device_id, void *block) {
  (void)device_type, (void)device_id;
  free(block);
  return 0;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
}

static void raise_error(const char *kind, const char *message) {
  fprintf(stderr, "%s: %s\n", kind, message);
}

int (*__TVMBackendParallelLaunch)(int (*)(int, environment *, void *), void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
void (*__TVMFFIErrorSetRaisedFromCStr)(const char *, const char *) = raise_error;
