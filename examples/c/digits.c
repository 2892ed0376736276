/* Classifies a digit with a library that edgecc built.
 *
 *   digits IMAGE.pgm [OTHER_LIBRARY.so]
 *
 * Shows the whole C API: the model is linked, its arena is a static array, a mistake gives a code
 * and a text, two threads run it at once, and another model is loaded beside it with dlopen. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digits.h"

enum { PIXELS = 28 * 28, CLASSES = 10 };

/* A plain-text PGM of 28 x 28; grey 0 to 1. */
static int read_image(const char *path, float *image) {
  int width, height, largest, value, n = 0;
  FILE *file = fopen(path, "r");
  if (!file) return -1;
  if (fscanf(file, "P2 %d %d %d", &width, &height, &largest) == 3 && width == 28 && height == 28 &&
      largest > 0)
    while (n < PIXELS && fscanf(file, "%d", &value) == 1) image[n++] = (float)value / (float)largest;
  fclose(file);
  return n == PIXELS ? 0 : -1;
}

static int largest(const float *logits) {
  int best = 0;
  for (int i = 1; i < CLASSES; ++i)
    if (logits[i] > logits[best]) best = i;
  return best;
}

static float image[PIXELS];

/* One thread's own instance: its state, its arena, its output. Nothing is allocated. */
typedef struct instance {
  _Alignas(EDGECC_ARENA_ALIGNMENT) unsigned char arena[EDGECC_DIGITS_ARENA_BYTES];
  edgecc_state state;
  float logits[CLASSES];
  int status;
} instance;

static instance first, second;

static void *classify(void *argument) {
  instance *self = argument;
  const edgecc_model *model = edgecc_digits_v1();
  const int64_t image_shape[] = {1, 1, 28, 28}, logits_shape[] = {1, CLASSES};
  const edgecc_tensor input = {image, sizeof image, image_shape, 4, EDGECC_FLOAT32};
  const edgecc_tensor output = {self->logits, sizeof self->logits, logits_shape, 2, EDGECC_FLOAT32};
  self->status = model->init(&self->state, self->arena, 2);
  for (int i = 0; i < 20 && !self->status; ++i)
    self->status = model->run(&self->state, &input, &output);
  return NULL;
}

static int wrong_dtype(void) {
  const edgecc_model *model = edgecc_digits_v1();
  const edgecc_tensor input = {image, sizeof image, NULL, 0, EDGECC_UINT8};
  const edgecc_tensor output = {first.logits, sizeof first.logits, NULL, 0, EDGECC_FLOAT32};
  const int status = model->run(&first.state, &input, &output);
  printf("wrong dtype: error %d: %s\n", status, model->last_error(&first.state));
  return status == EDGECC_ERROR_DTYPE ? 0 : -1;
}

/* Runs any model on zeros; only its descriptor says what it wants. */
static int run_other(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), -1;
  const edgecc_model *(*entry)(void);
  *(void **)&entry = dlsym(library, "edgecc_model_v1");
  if (!entry) return fprintf(stderr, "%s: no edgecc_model_v1\n", path), -1;
  const edgecc_model *model = entry();
  const uint32_t n = model->n_inputs + model->n_outputs;
  edgecc_tensor *tensors = calloc(n + 1, sizeof *tensors);
  if (!tensors) return -1;
  for (uint32_t i = 0; i < n; ++i) {
    const edgecc_tensor_info *info =
        i < model->n_inputs ? &model->inputs[i] : &model->outputs[i - model->n_inputs];
    tensors[i].data = calloc(1, (size_t)info->nbytes + 1);
    tensors[i].nbytes = info->nbytes;
    tensors[i].dtype = info->dtype;
  }
  edgecc_state state;
  int status = model->init(&state, NULL, 1);
  if (!status) status = model->run(&state, tensors, tensors + model->n_inputs);
  printf("beside it: %s (%s), status %d\n", model->name, model->target, status);
  if (status) fprintf(stderr, "%s\n", model->last_error(&state));
  model->close(&state);
  for (uint32_t i = 0; i < n; ++i) free(tensors[i].data);
  free(tensors);
  dlclose(library);
  return status;
}

int main(int argc, char **argv) {
  if (argc < 2 || read_image(argv[1], image)) {
    fprintf(stderr, "usage: digits IMAGE.pgm [OTHER_LIBRARY.so]   (28 x 28, P2)\n");
    return 2;
  }
  const edgecc_model *model = edgecc_digits_v1();
  printf("%s for %s: arena %llu bytes, %u operators\n", model->name, model->target,
         (unsigned long long)model->arena_bytes, (unsigned)model->n_operators);

  pthread_t thread;
  if (pthread_create(&thread, NULL, classify, &second)) return 1;
  classify(&first);
  pthread_join(thread, NULL);
  if (first.status || second.status) {
    fprintf(stderr, "%s\n", model->last_error(first.status ? &first.state : &second.state));
    return 1;
  }
  const int same = !memcmp(first.logits, second.logits, sizeof first.logits);
  printf("digit: %d (two threads %s)\n", largest(first.logits), same ? "agree" : "DISAGREE");

  int failed = !same || wrong_dtype();
  if (argc > 2) failed |= run_other(argv[2]);
  model->close(&first.state);
  model->close(&second.state);
  return failed ? 1 : 0;
}
