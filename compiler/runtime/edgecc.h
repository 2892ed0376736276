/* The ABI of every library that edgecc builds. C99 and C++; this text is repeated in each <model>.h. */
#ifndef EDGECC_ABI_V1
#define EDGECC_ABI_V1

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGECC_ABI_VERSION 1
/** Alignment in bytes of the arena. */
#define EDGECC_ARENA_ALIGNMENT 64
/** Most threads that one instance can use. */
#define EDGECC_MAX_THREADS 64

/** What every call returns; edgecc_model.last_error has the text. */
typedef enum edgecc_status {
  EDGECC_OK = 0,
  EDGECC_ERROR_NULL = 1,      /**< a pointer is NULL, or the state was never initialised */
  EDGECC_ERROR_DTYPE = 2,     /**< a tensor's dtype is not the model's */
  EDGECC_ERROR_SHAPE = 3,     /**< a tensor's rank, shape or byte size is not the model's */
  EDGECC_ERROR_ALIGNMENT = 4, /**< data or arena is not aligned */
  EDGECC_ERROR_OVERLAP = 5,   /**< an output overlaps an input, another output or the arena */
  EDGECC_ERROR_MEMORY = 6,    /**< init could not allocate */
  EDGECC_ERROR_BUSY = 7,      /**< another thread is running this state; its error text stays */
  EDGECC_ERROR_CPU = 8,       /**< this CPU lacks an instruction set the library was built for */
  EDGECC_ERROR_OPERATOR = 9   /**< an operator of the model failed */
} edgecc_status;

typedef enum edgecc_dtype {
  EDGECC_BOOL = 1, /**< one byte, 0 or 1 */
  EDGECC_INT8 = 2,
  EDGECC_UINT8 = 3,
  EDGECC_INT16 = 4,
  EDGECC_UINT16 = 5,
  EDGECC_INT32 = 6,
  EDGECC_UINT32 = 7,
  EDGECC_INT64 = 8,
  EDGECC_UINT64 = 9,
  EDGECC_FLOAT16 = 10,
  EDGECC_BFLOAT16 = 11,
  EDGECC_FLOAT32 = 12,
  EDGECC_FLOAT64 = 13
} edgecc_dtype;

/** A dense row-major tensor that the caller owns. */
typedef struct edgecc_tensor {
  void *data;           /**< aligned to the element size */
  uint64_t nbytes;      /**< size of data; checked against the model */
  const int64_t *shape; /**< rank extents; NULL leaves rank and shape unchecked (nbytes still is) */
  int32_t rank;
  int32_t dtype; /**< edgecc_dtype */
} edgecc_tensor;

/** What the model wants of one input or gives as one output. */
typedef struct edgecc_tensor_info {
  const char *name;
  uint64_t nbytes;
  const int64_t *shape; /**< rank extents */
  int32_t rank;
  int32_t dtype;      /**< edgecc_dtype */
  double scale;       /**< real = scale * (stored - zero_point); 0 where the tensor is not quantized */
  int32_t zero_point; /**< in units of the stored integer */
  int32_t reserved;
} edgecc_tensor_info;

/** One fused operator, in the order of execution. */
typedef struct edgecc_operator {
  const char *label; /**< for example "conv2d+add+relu" */
  uint64_t macs;     /**< multiply-accumulates of one run */
  uint64_t nbytes;   /**< bytes read and written, each tensor counted once */
} edgecc_operator;

/** One instance of a model: its arena, thread count and last error. Opaque; the caller provides it. */
typedef struct edgecc_state {
  uint64_t opaque[64];
} edgecc_state;

/** The model's constant descriptor. Functions return an edgecc_status. */
typedef struct edgecc_model {
  uint32_t abi_version;  /**< EDGECC_ABI_VERSION */
  uint32_t struct_bytes; /**< sizeof(edgecc_model) of the library */
  const char *name;
  const char *target;
  const edgecc_tensor_info *inputs;
  const edgecc_tensor_info *outputs;
  const edgecc_operator *operators;
  uint32_t n_inputs;
  uint32_t n_outputs;
  uint32_t n_operators;
  uint32_t default_threads; /**< cores of the target; init takes fewer when fewer are online */
  uint64_t arena_bytes;
  uint64_t weights_bytes;

  /** Makes an instance. `arena` is arena_bytes long and 64-byte aligned, and must outlive it; NULL
   *  allocates it here, once. `threads` 0 takes the default, 1 stays on the caller's thread. */
  int (*init)(edgecc_state *state, void *arena, int threads);
  /** Runs the model once. Allocates nothing. Different states may run at the same time. */
  int (*run)(edgecc_state *state, const edgecc_tensor *inputs, const edgecc_tensor *outputs);
  /** As run; also writes the wall time of each operator to ms[n_operators], in milliseconds. */
  int (*profile)(edgecc_state *state, const edgecc_tensor *inputs, const edgecc_tensor *outputs,
                 double *ms);
  /** Changes the number of threads, as in init. Not while the state is running. */
  int (*set_threads)(edgecc_state *state, int threads);
  /** How long idle workers and a waiting caller spin before they sleep, in microseconds (default
   *  50 and 50). 0 sleeps at once. Applies to all instances of this library. */
  int (*set_spin)(edgecc_state *state, uint32_t worker_us, uint32_t caller_us);
  /** Text of the last error of this state; "" when there was none. Valid until the next call. */
  const char *(*last_error)(const edgecc_state *state);
  /** Number of threads this state runs with; 0 if it was never initialised. */
  int (*threads)(const edgecc_state *state);
  /** Ends the instance; frees the arena if init allocated it. Safe to call twice. */
  void (*close)(edgecc_state *state);
  /** The clock of the calling core in GHz, measured in about a millisecond. */
  double (*clock_ghz)(void);
} edgecc_model;

#ifdef __cplusplus
}
#endif
#endif /* EDGECC_ABI_V1 */
