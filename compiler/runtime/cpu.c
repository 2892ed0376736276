/* Does this CPU have what the kernels were compiled for? Names are LLVM's; a name that is not in
 * the table can't be checked and passes. */
#include <string.h>

#include "runtime.h"

typedef struct feature {
  const char *name;
  uint8_t word, bit; /* word: an index into what read_words fills in */
  uint8_t state;     /* x86: bits of XCR0 that the operating system must save, >> 1 */
} feature;

#if defined(__x86_64__)
#include <cpuid.h>

enum { LEAF1_ECX, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX, LEAF7_1_EAX, EXTENDED_ECX, XCR0, N_WORDS };
enum { NONE = 0, YMM = 3, ZMM = 3 | 7 << 4 };

static const feature features[] = {
    {"sse3", LEAF1_ECX, 0, NONE},          {"ssse3", LEAF1_ECX, 9, NONE},
    {"fma", LEAF1_ECX, 12, YMM},           {"cx16", LEAF1_ECX, 13, NONE},
    {"sse4.1", LEAF1_ECX, 19, NONE},       {"sse4.2", LEAF1_ECX, 20, NONE},
    {"movbe", LEAF1_ECX, 22, NONE},        {"popcnt", LEAF1_ECX, 23, NONE},
    {"avx", LEAF1_ECX, 28, YMM},           {"f16c", LEAF1_ECX, 29, YMM},
    {"bmi", LEAF7_EBX, 3, NONE},           {"avx2", LEAF7_EBX, 5, YMM},
    {"bmi2", LEAF7_EBX, 8, NONE},          {"avx512f", LEAF7_EBX, 16, ZMM},
    {"avx512dq", LEAF7_EBX, 17, ZMM},      {"avx512ifma", LEAF7_EBX, 21, ZMM},
    {"avx512cd", LEAF7_EBX, 28, ZMM},      {"avx512bw", LEAF7_EBX, 30, ZMM},
    {"avx512vl", LEAF7_EBX, 31, ZMM},      {"avx512vbmi", LEAF7_ECX, 1, ZMM},
    {"avx512vbmi2", LEAF7_ECX, 6, ZMM},    {"gfni", LEAF7_ECX, 8, NONE},
    {"vaes", LEAF7_ECX, 9, YMM},           {"avx512vnni", LEAF7_ECX, 11, ZMM},
    {"avx512bitalg", LEAF7_ECX, 12, ZMM},  {"avx512vpopcntdq", LEAF7_ECX, 14, ZMM},
    {"avx512fp16", LEAF7_EDX, 23, ZMM},    {"avxvnni", LEAF7_1_EAX, 4, YMM},
    {"avx512bf16", LEAF7_1_EAX, 5, ZMM},   {"lzcnt", EXTENDED_ECX, 5, NONE},
};

static void read_words(uint64_t *words) {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) {
    words[LEAF1_ECX] = c;
    if (c >> 27 & 1) { /* OSXSAVE */
      unsigned low, high;
      __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      words[XCR0] = low;
    }
  }
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    words[LEAF7_EBX] = b, words[LEAF7_ECX] = c, words[LEAF7_EDX] = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) words[LEAF7_1_EAX] = a;
  }
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) words[EXTENDED_ECX] = c;
}

static bool saved(const feature *f, const uint64_t *words) {
  return (words[XCR0] >> 1 & f->state) == f->state;
}

#else
#include <sys/auxv.h>

enum { CAP, CAP2, VLENB, N_WORDS };

/* Bits of the kernel's uapi asm/hwcap.h. */
static const feature features[] = {
#if defined(__aarch64__)
    {"neon", CAP, 1, 0},     {"aes", CAP, 3, 0},      {"sha2", CAP, 6, 0},
    {"crc", CAP, 7, 0},      {"lse", CAP, 8, 0},      {"fullfp16", CAP, 10, 0},
    {"dotprod", CAP, 20, 0}, {"sve", CAP, 22, 0},     {"fp16fml", CAP, 23, 0},
    {"sve2", CAP2, 1, 0},    {"i8mm", CAP2, 13, 0},   {"bf16", CAP2, 14, 0},
#elif defined(__arm__)
    {"neon", CAP, 12, 0}, {"vfp3", CAP, 13, 0}, {"vfp4", CAP, 16, 0}, {"hwdiv-arm", CAP, 17, 0},
#elif defined(__riscv)
    {"a", CAP, 0, 0}, {"c", CAP, 2, 0}, {"d", CAP, 3, 0},
    {"f", CAP, 5, 0}, {"m", CAP, 12, 0}, {"v", CAP, 21, 0},
    /* Code for a known vector length computes nonsense with any other. */
    {"vlen128", VLENB, 4, 0}, {"vlen256", VLENB, 5, 0},
    {"vlen512", VLENB, 6, 0}, {"vlen1024", VLENB, 7, 0},
#endif
};

static void read_words(uint64_t *words) {
  words[CAP] = getauxval(AT_HWCAP);
  words[CAP2] = getauxval(26 /* AT_HWCAP2 */);
#if defined(__riscv)
  if (words[CAP] >> 21 & 1) __asm__ volatile("csrr %0, 0xc22" : "=r"(words[VLENB])); /* vlenb */
#endif
}

static bool saved(const feature *f, const uint64_t *words) {
  (void)f, (void)words;
  return true;
}
#endif

const char *edgecc_missing_cpu_feature(void) {
  uint64_t words[N_WORDS] = {0};
  read_words(words);
  for (const char *const *name = edgecc_cpu_features; *name; ++name)
    for (size_t i = 0; i < sizeof features / sizeof *features; ++i)
      if (!strcmp(*name, features[i].name) &&
          (!(words[features[i].word] >> features[i].bit & 1) || !saved(&features[i], words)))
        return *name;
  return NULL;
}
