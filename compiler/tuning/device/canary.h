/* The canary: a fixed loop that fits in registers. When it takes longer than before, the clock fell
 * or a neighbour woke up. */
#ifndef EDGECC_CANARY_H
#define EDGECC_CANARY_H

#include <stdint.h>
#include <time.h>

typedef unsigned long long u64; /* what %llu takes */

static u64 now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (u64)now.tv_sec * 1000000000u + (u64)now.tv_nsec;
}

/* Nanoseconds. Fused or not, the chain takes the same number of cycles each time. */
static u64 canary(void) {
  const u64 start = now_ns();
  volatile float seed = 1.0f;
  float a = seed, b = seed, c = seed, d = seed;
  for (int i = 0; i < 50000; ++i) {
    a = a * 0.999f + 0.001f, b = b * 0.998f + 0.002f;
    c = c * 0.997f + 0.003f, d = d * 0.996f + 0.004f;
  }
  seed = a + b + c + d;
  return now_ns() - start;
}

#endif
