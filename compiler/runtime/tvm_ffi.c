/* The library's entry in TVM's C FFI convention, so that tvm.runtime.load_module and a TVM RPC
 * server load, run and time it unchanged: main(input..., output...) and set_threads(n). */
#include <pthread.h>
#include <string.h>

#include "runtime.h"
#include "tvm_ffi.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static edgecc_state shared; /* one instance for all calls that come this way */
static bool ready;

static int raise_error(const char *kind, const char *message) {
  __TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

static int32_t dtype_of(const DLTensor *tensor) {
  static const struct {
    uint8_t code, bits;
    int32_t dtype;
  } table[] = {{CODE_BOOL, 8, EDGECC_BOOL},      {CODE_INT, 8, EDGECC_INT8},
               {CODE_UINT, 8, EDGECC_UINT8},     {CODE_INT, 16, EDGECC_INT16},
               {CODE_UINT, 16, EDGECC_UINT16},   {CODE_INT, 32, EDGECC_INT32},
               {CODE_UINT, 32, EDGECC_UINT32},   {CODE_INT, 64, EDGECC_INT64},
               {CODE_UINT, 64, EDGECC_UINT64},   {CODE_FLOAT, 16, EDGECC_FLOAT16},
               {CODE_BFLOAT, 16, EDGECC_BFLOAT16}, {CODE_FLOAT, 32, EDGECC_FLOAT32},
               {CODE_FLOAT, 64, EDGECC_FLOAT64}};
  for (size_t i = 0; i < sizeof table / sizeof *table; ++i)
    if (tensor->dtype.lanes == 1 && tensor->dtype.code == table[i].code &&
        tensor->dtype.bits == table[i].bits)
      return table[i].dtype;
  return 0;
}

static bool is_dense(const DLTensor *tensor) {
  int64_t stride = 1;
  for (int32_t i = tensor->ndim - 1; tensor->strides && i >= 0; --i) {
    if (tensor->shape[i] != 1 && tensor->strides[i] != stride) return false;
    stride *= tensor->shape[i];
  }
  return true;
}

static const char *convert(const TVMFFIAny *any, edgecc_tensor *tensor) {
  const DLTensor *from = edgecc_tensor_of(any);
  if (!from) return "an argument is not a tensor";
  if (from->device.type != DEVICE_CPU) return "a tensor is not on the CPU";
  if (!is_dense(from)) return "a tensor is not dense";
  tensor->data = (char *)from->data + from->byte_offset;
  tensor->dtype = dtype_of(from);
  tensor->rank = from->ndim;
  tensor->shape = from->shape;
  tensor->nbytes = from->dtype.bits / 8;
  for (int32_t i = 0; i < from->ndim; ++i) tensor->nbytes *= (uint64_t)from->shape[i];
  return NULL;
}

static int prepare(void) {
  if (ready) return 0;
  if (edgecc_init(&shared, NULL, 0)) return raise_error("RuntimeError", edgecc_last_error(&shared));
  ready = true;
  return 0;
}

int edgecc_tvm_main(void *self, const void *arguments, int32_t n_args, void *result) {
  const TVMFFIAny *args = arguments;
  (void)self;
  const uint32_t n = edgecc_descriptor.n_inputs + edgecc_descriptor.n_outputs;
  edgecc_tensor tensors[n + 1];
  if (n_args < 0 || (uint32_t)n_args != n)
    return raise_error("TypeError", "main takes the model's inputs, then its outputs");
  for (int32_t i = 0; i < n_args; ++i) {
    const char *message = convert(&args[i], &tensors[i]);
    if (message) return raise_error("TypeError", message);
  }
  pthread_mutex_lock(&lock);
  int code = prepare();
  if (!code && edgecc_run(&shared, tensors, tensors + edgecc_descriptor.n_inputs))
    code = raise_error("ValueError", edgecc_last_error(&shared));
  pthread_mutex_unlock(&lock);
  memset(result, 0, sizeof(TVMFFIAny));
  return code;
}

int edgecc_tvm_set_threads(void *self, const void *arguments, int32_t n_args, void *result) {
  const TVMFFIAny *args = arguments;
  (void)self;
  if (n_args != 1 || args[0].type_index != TYPE_INT)
    return raise_error("TypeError", "set_threads takes one integer");
  pthread_mutex_lock(&lock);
  int code = prepare();
  if (!code && edgecc_set_threads(&shared, (int)args[0].v_int64))
    code = raise_error("RuntimeError", edgecc_last_error(&shared));
  pthread_mutex_unlock(&lock);
  memset(result, 0, sizeof(TVMFFIAny));
  return code;
}
