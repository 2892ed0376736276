/* A TCG plugin that counts what a guest executes between marks.
 *
 * Options: out=FILE, l1d=BYTES:WAYS, l2=BYTES:WAYS, line=BYTES.
 *
 * A mark is the system call prctl(EDGECC_MARK): every one but the first ends a region. Regions go to
 * FILE as lines of N_CLASSES + 2 numbers: instructions of each class, L1D misses, L2 misses. The
 * caches are simulated from the start of the program, so that a region sees what ran before it.
 *
 * One guest thread only: the counters are not atomic. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"
#include "qemu_plugin.h"

#define EDGECC_MARK 0x45444743u /* the same in compiler/runtime/runner.c */
#define N_COUNTERS (N_CLASSES + 2)

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_API_VERSION;

static uint64_t executed[N_CLASSES];
static cache l1d, l2;
static unsigned line_shift;
static uint64_t before[N_COUNTERS];
static bool marked;
static FILE *out;
static enum { AARCH64, ARM, RISCV64, X86_64 } guest;

static enum instruction_class classify(const struct qemu_plugin_insn *insn) {
  if (guest == AARCH64 || guest == RISCV64) {
    uint32_t word = 0;
    const size_t size = qemu_plugin_insn_size(insn);
    memcpy(&word, qemu_plugin_insn_data(insn), size < 4 ? size : 4);
    return guest == AARCH64 ? classify_aarch64(word) : classify_riscv64(word);
  }
  char *text = qemu_plugin_insn_disas(insn);
  if (!text) return CLASS_OTHER;
  const enum instruction_class found = guest == ARM ? classify_arm(text) : classify_x86(text);
  free(text);
  return found;
}

static void touch_line(uint64_t line) {
  if (!cache_access(&l1d, line)) cache_access(&l2, line);
}

static void touch(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
  (void)vcpu, (void)data;
  const uint64_t line = address >> line_shift;
  touch_line(line);
  const uint64_t last = address + ((uint64_t)1 << qemu_plugin_mem_size_shift(info)) - 1;
  if (last >> line_shift != line) touch_line(last >> line_shift);
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  uint64_t counts[N_CLASSES] = {0};
  const size_t n = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < n; ++i) {
    struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
    ++counts[classify(insn)];
    qemu_plugin_register_vcpu_mem_cb(insn, touch, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
                                     NULL);
  }
  /* A block runs to its end: only a fault could leave it early. */
  for (size_t c = 0; c < N_CLASSES; ++c)
    if (counts[c])
      qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &executed[c],
                                               counts[c]);
}

static void mark(void) {
  uint64_t now[N_COUNTERS];
  memcpy(now, executed, sizeof executed);
  now[N_CLASSES] = l1d.misses;
  now[N_CLASSES + 1] = l2.misses;
  for (size_t i = 0; marked && i < N_COUNTERS; ++i)
    fprintf(out, i + 1 < N_COUNTERS ? "%llu " : "%llu\n",
            (unsigned long long)(now[i] - before[i]));
  memcpy(before, now, sizeof now);
  marked = true;
}

static void system_call(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1,
                        uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                        uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  static const int64_t prctl[] = {[AARCH64] = 167, [ARM] = 172, [RISCV64] = 167, [X86_64] = 157};
  if (number == prctl[guest] && (uint32_t)a1 == EDGECC_MARK) mark();
}

static void finish(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  fclose(out);
}

static bool set_guest(const char *name) {
  static const char *const names[] = {"aarch64", "arm", "riscv64", "x86_64"};
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
    if (!strcmp(name, names[i])) {
      guest = i;
      return true;
    }
  return false;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                           char **argv) {
  unsigned long long bytes[2] = {0, 0};
  unsigned ways[2] = {1, 1}, line = 64;
  for (int i = 0; i < argc; ++i) {
    const char *value = strchr(argv[i], '=');
    if (value && !strncmp(argv[i], "out=", 4))
      out = fopen(value + 1, "w");
    else if (sscanf(argv[i], "l1d=%llu:%u", &bytes[0], &ways[0]) != 2 &&
             sscanf(argv[i], "l2=%llu:%u", &bytes[1], &ways[1]) != 2 &&
             sscanf(argv[i], "line=%u", &line) != 1) {
      fprintf(stderr, "edgecc plugin: unknown option %s\n", argv[i]);
      return 1;
    }
  }
  if (!out || info->system_emulation || !set_guest(info->target_name) || line & (line - 1) ||
      !cache_open(&l1d, bytes[0], ways[0], line) || !cache_open(&l2, bytes[1], ways[1], line)) {
    fprintf(stderr, "edgecc plugin: no such caches, no output file or no support for %s\n",
            info->target_name);
    return 1;
  }
  while (1u << line_shift < line) ++line_shift;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  qemu_plugin_register_atexit_cb(id, finish, NULL);
  return 0;
}
