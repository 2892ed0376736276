/* TVM's public C ABI (tvm/ffi/c_api.h, dlpack.h), as much as entries in its calling convention need:
 *   int __tvm_ffi_NAME(void *self, const TVMFFIAny *arguments, int32_t n, TVMFFIAny *result) */
#ifndef EDGECC_TVM_FFI_H
#define EDGECC_TVM_FFI_H

#include <stddef.h>
#include <stdint.h>

typedef struct DLTensor {
  void *data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;

typedef struct TVMFFIAny {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t v_int64;
    void *v_ptr;
    uint64_t v_uint64;
  };
} TVMFFIAny;

enum { TYPE_NONE = 0, TYPE_INT = 1, TYPE_DLTENSOR = 7, TYPE_TENSOR = 70 };
enum { DEVICE_CPU = 1, OBJECT_HEADER_BYTES = 24 };
enum { CODE_INT = 0, CODE_UINT = 1, CODE_FLOAT = 2, CODE_BFLOAT = 4, CODE_BOOL = 6 };

/* TVM's module loader puts its own function here, which sets the exception of the caller's thread. */
extern void (*__TVMFFIErrorSetRaisedFromCStr)(const char *kind, const char *message);

/* The tensor that an argument is, or NULL. */
static inline const DLTensor *edgecc_tensor_of(const TVMFFIAny *any) {
  if (any->type_index == TYPE_DLTENSOR) return any->v_ptr;
  if (any->type_index == TYPE_TENSOR)
    return (const DLTensor *)((const char *)any->v_ptr + OBJECT_HEADER_BYTES);
  return NULL;
}

#endif
