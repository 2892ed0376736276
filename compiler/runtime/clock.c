/* The clock this core really runs at: boost, governor and throttling included. */
#include "runtime.h"

#define ADDS 64 /* a round */
#define ROUNDS 4000
#define SAMPLES 5

/* Each addition waits for the one before: one cycle on every core that is a target. */
#if defined(__x86_64__)
#define ADD "addq %1, %0\n\t"
#else
#define ADD "add %0, %0, %1\n\t"
#endif
#define ADD4 ADD ADD ADD ADD
#define ADD16 ADD4 ADD4 ADD4 ADD4

double edgecc_clock_ghz(void) {
  uint64_t best = UINT64_MAX;
  for (int sample = 0; sample < SAMPLES; ++sample) {
    uintptr_t sum = 0, step = 3;
    const uint64_t start = edgecc_now_ns();
    for (int i = 0; i < ROUNDS; ++i)
      __asm__ volatile(ADD16 ADD16 ADD16 ADD16 : "+r"(sum) : "r"(step) : "cc");
    const uint64_t ns = edgecc_now_ns() - start;
    if (ns < best) best = ns;
  }
  return best ? (double)ADDS * ROUNDS / (double)best : 0;
}
