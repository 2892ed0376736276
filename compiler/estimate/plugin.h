/* What the plugin's files share. */
#ifndef EDGECC_ESTIMATE_PLUGIN_H
#define EDGECC_ESTIMATE_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every executed instruction is of exactly one class. compiler/estimate/regions.py has the names in
 * the same order. */
enum instruction_class {
  CLASS_INT,          /* integer arithmetic, moves and comparisons in general registers */
  CLASS_FP,           /* scalar floating point without the multiply-adds */
  CLASS_FMA,          /* scalar fused multiply-add */
  CLASS_VECTOR,       /* vector arithmetic, conversion and shuffling without the multiply-adds */
  CLASS_VECTOR_FMA,   /* vector multiply-accumulate, integer dot product */
  CLASS_LOAD,         /* into a general or scalar floating-point register */
  CLASS_VECTOR_LOAD,  /* into a whole vector register */
  CLASS_STORE,
  CLASS_VECTOR_STORE,
  CLASS_BRANCH,
  CLASS_OTHER,        /* system calls, barriers, prefetches, vector length settings, unknown */
  N_CLASSES
};

/* classify.c: aarch64 and riscv64 from the instruction's bytes. */
enum instruction_class classify_aarch64(uint32_t word);
enum instruction_class classify_riscv64(uint32_t word); /* 16-bit ones in the low half */

/* classify_text.c: from the disassembly, where decoding by hand would be long. */
enum instruction_class classify_arm(const char *text);
enum instruction_class classify_x86(const char *text); /* AT&T syntax */

/* cache.c: one level, set-associative, least recently used line replaced. */
typedef struct cache {
  uint64_t *tags; /* sets x ways, most recently used first; UINT64_MAX is an empty place */
  uint64_t sets, misses;
  unsigned ways;
} cache;

/* bytes 0 makes a level that is not there: it never misses. False: not a cache, or no memory. */
bool cache_open(cache *level, uint64_t bytes, unsigned ways, unsigned line);
/* Looks a line up (address / line size), moves it to the front; true: it was there. */
bool cache_access(cache *level, uint64_t line);

#endif
