/* Instruction classes from QEMU's disassembly (capstone): "vmla.f32 q8, q9, d0[0]". */
#include <ctype.h>
#include <string.h>

#include "plugin.h"

static bool starts(const char *text, const char *prefix) {
  return !strncmp(text, prefix, strlen(prefix));
}

static bool one_of(const char *mnemonic, const char *const *names) {
  for (; *names; ++names)
    if (!strcmp(mnemonic, *names)) return true;
  return false;
}

/* Copies the first word to `mnemonic`; returns the operands. */
static const char *split(const char *text, char *mnemonic, size_t size) {
  size_t n = 0;
  while (*text && !isspace((unsigned char)*text)) {
    if (n + 1 < size) mnemonic[n++] = *text;
    ++text;
  }
  mnemonic[n] = 0;
  while (isspace((unsigned char)*text)) ++text;
  return text;
}

/* Whether a register `letter`<digit> is among the operands. */
static bool has_register(const char *operands, char letter) {
  for (const char *at = operands; *at; ++at)
    if (*at == letter && isdigit((unsigned char)at[1]) &&
        (at == operands || !isalnum((unsigned char)at[-1])))
      return true;
  return false;
}

/* b, bl, bx, blx, each with a condition or ".w" behind it; but not bic, bfi, bfc, bkpt. */
static bool arm_branch(const char *mnemonic) {
  static const char *const names[] = {"b", "bl", "bx", "blx", "cbz", "cbnz", "tbb", "tbh", NULL};
  static const char *const conditions[] = {"eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc",
                                           "hi", "ls", "ge", "lt", "gt", "le", NULL};
  char plain[32];
  size_t n = strcspn(mnemonic, ".");
  if (n >= sizeof plain) n = sizeof plain - 1;
  memcpy(plain, mnemonic, n);
  plain[n] = 0;
  if (one_of(plain, names)) return true;
  if (n < 3 || !one_of(plain + n - 2, conditions)) return false;
  plain[n - 2] = 0;
  return one_of(plain, names);
}

static enum instruction_class arm_simd(const char *mnemonic, const char *operands) {
  const bool quad = has_register(operands, 'q');
  if (starts(mnemonic, "vld1") || starts(mnemonic, "vld2") || starts(mnemonic, "vld3") ||
      starts(mnemonic, "vld4") || starts(mnemonic, "vldm") || starts(mnemonic, "vpop"))
    return CLASS_VECTOR_LOAD;
  if (starts(mnemonic, "vst1") || starts(mnemonic, "vst2") || starts(mnemonic, "vst3") ||
      starts(mnemonic, "vst4") || starts(mnemonic, "vstm") || starts(mnemonic, "vpush"))
    return CLASS_VECTOR_STORE;
  if (starts(mnemonic, "vldr")) return CLASS_LOAD;
  if (starts(mnemonic, "vstr")) return CLASS_STORE;
  const bool scalar =
      !quad && (strstr(mnemonic, ".f64") || has_register(operands, 's') || strstr(operands, "apsr"));
  const bool accumulates = starts(mnemonic, "vmla") || starts(mnemonic, "vmls") ||
                           starts(mnemonic, "vfma") || starts(mnemonic, "vfms") ||
                           starts(mnemonic, "vfnm") || starts(mnemonic, "vnml") ||
                           starts(mnemonic, "vqdmla") || starts(mnemonic, "vqdmls") ||
                           starts(mnemonic, "vsdot") || starts(mnemonic, "vudot");
  if (scalar) return accumulates ? CLASS_FMA : CLASS_FP;
  return accumulates ? CLASS_VECTOR_FMA : CLASS_VECTOR;
}

enum instruction_class classify_arm(const char *text) {
  static const char *const others[] = {"svc", "nop", "dmb", "dsb", "isb", "mcr", "mrc",
                                       "pld", "pli", "it",  "udf", "wfe", "sev", NULL};
  char mnemonic[32];
  const char *operands = split(text, mnemonic, sizeof mnemonic);
  if (!mnemonic[0] || one_of(mnemonic, others) || starts(mnemonic, "pld")) return CLASS_OTHER;
  if (arm_branch(mnemonic)) return CLASS_BRANCH;
  if (mnemonic[0] == 'v') return arm_simd(mnemonic, operands);
  if (starts(mnemonic, "ld") || starts(mnemonic, "pop")) return CLASS_LOAD;
  if (starts(mnemonic, "st") || starts(mnemonic, "push")) return CLASS_STORE;
  return CLASS_INT;
}

/* The memory operand's place in AT&T syntax: 0 none, 1 source, 2 destination (the last operand). */
static int x86_memory(const char *operands) {
  const char *open = strrchr(operands, '(');
  if (!open) return 0;
  const char *close = strchr(open, ')');
  return close && strchr(close, ',') ? 1 : 2;
}

static enum instruction_class x86_simd(const char *mnemonic, const char *operands) {
  const size_t n = strlen(mnemonic);
  const bool broadcast = strstr(mnemonic, "broadcast") != NULL;
  const bool scalar = !broadcast && n > 2 &&
                      (!strcmp(mnemonic + n - 2, "ss") || !strcmp(mnemonic + n - 2, "sd"));
  const bool move = broadcast || strstr(mnemonic, "mov");
  const int memory = move ? x86_memory(operands) : 0;
  if (memory == 1) return scalar ? CLASS_LOAD : CLASS_VECTOR_LOAD;
  if (memory == 2) return scalar ? CLASS_STORE : CLASS_VECTOR_STORE;
  const bool accumulates = starts(mnemonic, "vfmadd") || starts(mnemonic, "vfmsub") ||
                           starts(mnemonic, "vfnm") || starts(mnemonic, "vpdp");
  if (scalar) return accumulates ? CLASS_FMA : CLASS_FP;
  return accumulates ? CLASS_VECTOR_FMA : CLASS_VECTOR;
}

enum instruction_class classify_x86(const char *text) {
  static const char *const others[] = {"syscall", "nop",    "nopw",   "nopl", "cpuid", "mfence",
                                       "endbr64", "lfence", "sfence", "hlt",  "rdtsc", NULL};
  char mnemonic[32];
  const char *operands = split(text, mnemonic, sizeof mnemonic);
  if (!mnemonic[0] || one_of(mnemonic, others) || starts(mnemonic, "prefetch")) return CLASS_OTHER;
  if (mnemonic[0] == 'j' || starts(mnemonic, "call") || starts(mnemonic, "ret") ||
      starts(mnemonic, "loop"))
    return CLASS_BRANCH;
  if (strstr(operands, "%xmm") || strstr(operands, "%ymm") || strstr(operands, "%zmm"))
    return x86_simd(mnemonic, operands);
  if (starts(mnemonic, "push")) return CLASS_STORE;
  if (starts(mnemonic, "pop")) return CLASS_LOAD;
  if (starts(mnemonic, "mov")) {
    const int memory = x86_memory(operands);
    if (memory) return memory == 1 ? CLASS_LOAD : CLASS_STORE;
  }
  return CLASS_INT;
}
