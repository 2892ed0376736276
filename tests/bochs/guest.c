/* What runtime/runner.c and a built library need from an operating system, without one: a loader
 * of one shared library, the few functions of the C library they call, one thread. Files and text
 * leave through port 0xE9, which Bochs copies to its output, as frames of the mark "EDGC", a
 * letter (o: the output file, e: text, x: the exit status), a 32-bit length and so many bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* What tests/bochs/machine.py puts at 1 MiB; offsets count from there. */
typedef struct image {
  uint64_t library, inputs, end;
  char threads[8];
} image;
static const image *const files = (const image *)0x100000;

int main(int argc, char **argv);

static uint8_t *heap;
static const uint8_t *library_base, *next_input;
static void *specific;

static void out(const void *data, size_t n) {
  __asm__ volatile("rep outsb" : "+S"(data), "+c"(n) : "d"(0xe9) : "memory");
}

static void frame(char kind, const void *data, uint32_t n) {
  out("EDGC", 4), out(&kind, 1), out(&n, 4), out(data, n);
}

void exit(int status) {
  frame('x', &status, sizeof status);
  const void *word = "Shutdown"; /* ends Bochs */
  size_t n = 8;
  __asm__ volatile("rep outsb" : "+S"(word), "+c"(n) : "d"(0x8900));
  for (;;) __asm__ volatile("cli; hlt");
}

static void unsupported(void) {
  static const char text[] = "calls a function that is not there without an operating system";
  frame('e', text, sizeof text - 1);
  exit(3);
}

/* Memory */

void *memset(void *to, int value, size_t n) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
  return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
  return to;
}

int memcmp(const void *a, const void *b, size_t n) {
  const uint8_t *p = a, *q = b;
  for (; n && *p == *q; --n) ++p, ++q;
  return n ? *p - *q : 0;
}

int strcmp(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return (uint8_t)*a - (uint8_t)*b;
}

int posix_memalign(void **block, size_t alignment, size_t n) {
  heap += -(uintptr_t)heap & (alignment - 1);
  *block = heap;
  heap += n;
  return 0;
}

void *malloc(size_t n) {
  void *block;
  posix_memalign(&block, 64, n);
  return block;
}

void *calloc(size_t n, size_t size) { return memset(malloc(n * size), 0, n * size); }

void free(void *block) { (void)block; }

/* Text: %s, %.Ns, %d, %u and their long forms; enough for an error's message. */

int vsnprintf(char *restrict text, size_t size, const char *restrict format, va_list arguments) {
  size_t used = 0;
  for (; *format; ++format) {
    char digits[24], *string = digits + sizeof digits - 1;
    int precision = -1, wide = 0;
    *string = 0;
    if (*format != '%') {
      *--string = *format;
    } else {
      for (++format; *format != 's' && *format != 'd' && *format != 'u'; ++format) {
        wide |= *format == 'l';
        if (*format == '.') precision = 0;
        else if (precision >= 0) precision = precision * 10 + *format - '0';
      }
      if (*format == 's') {
        string = va_arg(arguments, char *);
      } else {
        long value = wide ? va_arg(arguments, long) : va_arg(arguments, int);
        uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
        do *--string = (char)('0' + rest % 10);
        while (rest /= 10);
        if (value < 0) *--string = '-';
      }
    }
    for (; *string && precision--; ++string)
      if (++used < size) text[used - 1] = *string;
  }
  if (size) text[used < size ? used : size - 1] = 0;
  return (int)used;
}

int snprintf(char *restrict text, size_t size, const char *restrict format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int n = vsnprintf(text, size, format, arguments);
  va_end(arguments);
  return n;
}

int fprintf(FILE *restrict file, const char *restrict format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  const int n = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  frame('e', text, n < (int)sizeof text ? n : (int)sizeof text - 1);
  return n;
}

int printf(const char *restrict format, ...) { return unsupported(), 0; } /* of times */

int atoi(const char *text) { return *text - '0'; } /* the number of threads: one digit */

/* Files: one to read, one to write */

FILE *const stderr = NULL;

FILE *fopen(const char *restrict path, const char *restrict mode) {
  next_input = (const uint8_t *)files + files->inputs;
  return (FILE *)path;
}

size_t fread(void *restrict data, size_t size, size_t n, FILE *restrict file) {
  memcpy(data, next_input, size * n);
  next_input += size * n;
  return n;
}

size_t fwrite(const void *restrict data, size_t size, size_t n, FILE *restrict file) {
  frame('o', data, (uint32_t)(size * n));
  return n;
}

int fclose(FILE *file) { return 0; }

/* Threads: none can be started, so the caller does what is meant for all */

static int nothing(void) { return 0; }

static int one(void) { return 1; }

static int set_specific(pthread_key_t key, const void *value) {
  specific = (void *)value;
  return 0;
}

static void *get_specific(pthread_key_t key) { return specific; }

/* The library. What it does not define is looked up here; calling anything else ends the run. */

static const struct {
  const char *name;
  void *address;
} symbols[] = {
    {"memset", memset},
    {"memcpy", memcpy},
    {"strcmp", strcmp},
    {"malloc", malloc},
    {"free", free},
    {"snprintf", snprintf},
    {"vsnprintf", vsnprintf},
    {"clock_gettime", nothing},
    {"getpid", one},
    {"sched_getaffinity", nothing},
    {"__sched_cpucount", one},
    {"pthread_mutex_lock", nothing},
    {"pthread_mutex_unlock", nothing},
    {"pthread_key_create", nothing},
    {"pthread_key_delete", nothing},
    {"pthread_attr_init", nothing},
    {"pthread_attr_setstacksize", nothing},
    {"pthread_attr_destroy", nothing},
    {"sigfillset", nothing},
    {"pthread_sigmask", nothing},
    {"pthread_create", one},
    {"syscall", nothing}, /* of threads.c: wakes nobody */
    {"pthread_setspecific", set_specific},
    {"pthread_getspecific", get_specific},
};

static const uint8_t *dynamic[DT_JMPREL + 1]; /* by tag; sizes too, as if they were addresses */

static uint64_t resolve(const Elf64_Sym *symbol) {
  const char *name = (const char *)dynamic[DT_STRTAB] + symbol->st_name;
  if (symbol->st_shndx != SHN_UNDEF) return (uint64_t)library_base + symbol->st_value;
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; ++i)
    if (!strcmp(symbols[i].name, name)) return (uint64_t)symbols[i].address;
  return ELF64_ST_BIND(symbol->st_info) == STB_WEAK ? 0 : (uint64_t)unsupported;
}

static void relocate(const uint8_t *table, uint64_t nbytes) {
  const Elf64_Rela *entry = (const void *)table;
  for (; nbytes; nbytes -= sizeof *entry, ++entry) {
    const Elf64_Sym *symbol =
        (const Elf64_Sym *)dynamic[DT_SYMTAB] + ELF64_R_SYM(entry->r_info);
    const uint64_t type = ELF64_R_TYPE(entry->r_info);
    const uint64_t base = type == R_X86_64_RELATIVE ? (uint64_t)library_base : resolve(symbol);
    *(uint64_t *)(library_base + entry->r_offset) =
        base + (type == R_X86_64_RELATIVE || type == R_X86_64_64 ? entry->r_addend : 0);
  }
}

void *dlopen(const char *path, int flags) {
  const uint8_t *file = (const uint8_t *)files + files->library;
  const Elf64_Ehdr *header = (const void *)file;
  const Elf64_Phdr *segment = (const void *)(file + header->e_phoff);
  const Elf64_Phdr *end = segment + header->e_phnum;
  const Elf64_Dyn *entry = NULL;
  heap += -(uintptr_t)heap & 4095;
  uint8_t *base = heap;
  library_base = base;
  for (; segment < end; ++segment) {
    if (segment->p_type == PT_DYNAMIC) entry = (const void *)(base + segment->p_vaddr);
    if (segment->p_type != PT_LOAD) continue;
    memcpy(base + segment->p_vaddr, file + segment->p_offset, segment->p_filesz);
    memset(base + segment->p_vaddr + segment->p_filesz, 0, segment->p_memsz - segment->p_filesz);
    heap = base + segment->p_vaddr + segment->p_memsz;
  }
  for (; entry->d_tag != DT_NULL; ++entry) {
    const int is_size = entry->d_tag == DT_RELASZ || entry->d_tag == DT_PLTRELSZ;
    if (entry->d_tag <= DT_JMPREL)
      dynamic[entry->d_tag] = (is_size ? NULL : base) + entry->d_un.d_val;
  }
  relocate(dynamic[DT_RELA], (uint64_t)dynamic[DT_RELASZ]);
  relocate(dynamic[DT_JMPREL], (uint64_t)dynamic[DT_PLTRELSZ]);
  return base;
}

void *dlsym(void *restrict library, const char *restrict name) {
  const uint32_t n = ((const uint32_t *)dynamic[DT_HASH])[1];
  const Elf64_Sym *symbol = (const void *)dynamic[DT_SYMTAB];
  const char *names = (const char *)dynamic[DT_STRTAB];
  for (uint32_t i = 0; i < n; ++i, ++symbol)
    if (symbol->st_shndx != SHN_UNDEF && !strcmp(names + symbol->st_name, name))
      return (void *)(library_base + symbol->st_value);
  return NULL;
}

char *dlerror(void) { return ""; }

int dlclose(void *library) { return 0; }

int prctl(int option, ...) { return 0; }

static void illegal_instruction(void) { exit(128 + SIGILL); }

/* Any other exception finds no handler, which ends Bochs with a panic. */
static void handle_illegal_instruction(void) {
  static struct gate {
    uint16_t low, selector, type, middle;
    uint64_t high;
  } gates[7];
  const struct __attribute__((packed)) {
    uint16_t limit;
    struct gate *gates;
  } pointer = {sizeof gates - 1, gates};
  const uint64_t handler = (uint64_t)illegal_instruction;
  gates[6] = (struct gate){(uint16_t)handler, 16, 0x8e00, (uint16_t)(handler >> 16), 0};
  __asm__ volatile("lidt %0" : : "m"(pointer));
}

void guest_main(void) {
  char *arguments[] = {"runner", "library", "verify", (char *)files->threads, "in", "out", NULL};
  heap = (uint8_t *)files + files->end;
  handle_illegal_instruction();
  exit(main(6, arguments));
}
