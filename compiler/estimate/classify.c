/* Instruction classes from the encoding: A64 (Arm ARM, C4) and RV64GCV (unprivileged ISA, ch. 24,
 * and the vector extension 1.0). */
#include "plugin.h"

/* Bits high..low of the word. */
static uint32_t bits(uint32_t word, int high, int low) {
  return word >> low & ((2u << (high - low)) - 1);
}

static enum instruction_class memory(bool load, bool vector) {
  if (load) return vector ? CLASS_VECTOR_LOAD : CLASS_LOAD;
  return vector ? CLASS_VECTOR_STORE : CLASS_STORE;
}

static enum instruction_class a64_memory(uint32_t word) {
  const bool fp = bits(word, 26, 26);
  if (fp && !bits(word, 31, 31) && bits(word, 29, 25) == 6) /* LD1..LD4, ST1..ST4, LD1R */
    return memory(bits(word, 22, 22), true);
  switch (bits(word, 29, 28)) {
    case 1: /* literal: PRFM is opc 3 without V */
      if (!bits(word, 24, 24)) {
        if (!fp && bits(word, 31, 30) == 3) return CLASS_OTHER;
        return memory(true, fp && bits(word, 31, 30) == 2);
      }
      return memory(bits(word, 22, 22), false); /* LDAPUR and their like */
    case 2: /* pairs; opc 2 with V is a pair of 128-bit registers */
      return memory(bits(word, 22, 22), fp && bits(word, 31, 30) == 2);
    case 3: {
      const uint32_t size = bits(word, 31, 30), opc = bits(word, 23, 22);
      const bool single = bits(word, 24, 24) || !bits(word, 21, 21) || bits(word, 11, 10) == 2;
      if (!single) return CLASS_LOAD; /* atomics read, modify and write */
      if (fp) return memory(opc & 1, size == 0 && opc >= 2);
      if (size == 3 && opc == 2) return CLASS_OTHER; /* PRFM */
      return memory(opc != 0, false);
    }
    default: /* exclusive, ordered, compare and swap */
      return memory(bits(word, 22, 22), false);
  }
}

/* Multiply-accumulates among the Advanced SIMD instructions, vector and scalar forms alike. */
static bool a64_accumulates(uint32_t word) {
  const uint32_t u = bits(word, 29, 29), opcode4 = bits(word, 15, 12);
  if (bits(word, 24, 24)) { /* by element; with bit 10 set a shift or an immediate */
    if (bits(word, 10, 10)) return false;
    switch (opcode4) {
      case 1: case 5:                 /* FMLA, FMLS */
      case 0: case 4:                 /* MLA, MLS, FMLAL, FMLSL */
      case 2: case 3: case 6: case 7: /* SMLAL, SQDMLAL, SMLSL, SQDMLSL, FCMLA */
      case 14: case 15: return true;  /* SDOT, UDOT, USDOT, BFDOT, BFMLAL, SQRDMLSH */
      case 8: case 12: case 13: return u; /* FMLAL2, FMLSL2, SQRDMLAH; else MUL, SQ(R)DMULH */
      default: return false;
    }
  }
  const uint32_t opcode5 = bits(word, 15, 11);
  if (bits(word, 21, 21)) {
    if (bits(word, 10, 10)) /* three the same */
      return opcode5 == 0x19 || opcode5 == 0x12 || (!u && opcode5 == 0x1D);
    if (!bits(word, 11, 11)) /* three different: (S|U)MLAL, (S|U)MLSL, SQDMLAL, SQDMLSL */
      return opcode4 >= 8 && opcode4 <= 11 && !bits(word, 28, 28);
    return false;
  }
  if (!bits(word, 10, 10)) return false; /* permutes, table lookups */
  if (bits(word, 15, 15)) /* three the same, extra: dot products and FCMLA, but not FCADD */
    return (opcode5 & 0x1D) != 0x1C;
  return bits(word, 22, 22) && bits(word, 15, 14) == 0 && !u && bits(word, 13, 11) == 1; /* fp16 */
}

static enum instruction_class a64_simd_fp(uint32_t word) {
  const bool scalar = bits(word, 28, 28);
  if (scalar && !bits(word, 30, 30)) /* bit 24: FMADD, FMSUB, FNMADD, FNMSUB */
    return bits(word, 24, 24) ? CLASS_FMA : CLASS_FP;
  const bool accumulates = a64_accumulates(word);
  if (scalar) return accumulates ? CLASS_FMA : CLASS_FP;
  return accumulates ? CLASS_VECTOR_FMA : CLASS_VECTOR;
}

enum instruction_class classify_aarch64(uint32_t word) {
  switch (bits(word, 28, 25)) {
    case 4: case 6: case 12: case 14: return a64_memory(word);
    case 5: case 13: /* register */
    case 8: case 9:  /* immediate */
      return CLASS_INT;
    case 7: case 15: return a64_simd_fp(word);
    case 10: case 11:
      /* 1101 0100, 1101 0101: exceptions, hints, barriers, system registers */
      return bits(word, 31, 25) == 0x6A ? CLASS_OTHER : CLASS_BRANCH;
    default: return CLASS_OTHER; /* SVE and what is reserved: no target here uses it */
  }
}

static enum instruction_class rv_compressed(uint32_t word) {
  const uint32_t funct = bits(word, 15, 13);
  switch (bits(word, 1, 0)) {
    case 0: return funct == 0 ? CLASS_INT : memory(funct < 4, false);
    case 1: return funct >= 5 ? CLASS_BRANCH : CLASS_INT;
    default:
      if (funct == 0) return CLASS_INT;
      if (funct != 4) return memory(funct < 4, false);
      if (bits(word, 6, 2)) return CLASS_INT; /* C.MV, C.ADD */
      return bits(word, 11, 7) ? CLASS_BRANCH : CLASS_OTHER;
  }
}

static enum instruction_class rv_vector(uint32_t word) {
  const uint32_t form = bits(word, 14, 12), funct6 = bits(word, 31, 26);
  if (form == 7) return CLASS_OTHER; /* vsetvli, vsetivli, vsetvl */
  const bool floating = form == 1 || form == 5, multiply = form == 2 || form == 6;
  if (floating && (bits(funct6, 5, 3) == 5 || funct6 >= 0x3C)) return CLASS_VECTOR_FMA;
  if (multiply && ((bits(funct6, 5, 3) == 5 && funct6 & 1) || funct6 >= 0x3C))
    return CLASS_VECTOR_FMA;
  return CLASS_VECTOR;
}

enum instruction_class classify_riscv64(uint32_t word) {
  if ((word & 3) != 3) return rv_compressed(word);
  const uint32_t width = bits(word, 14, 12);
  switch (bits(word, 6, 0)) {
    case 0x03: return CLASS_LOAD;
    case 0x23: return CLASS_STORE;
    case 0x07: return memory(true, width == 0 || width > 4); /* 1 to 4: scalar floating point */
    case 0x27: return memory(false, width == 0 || width > 4);
    case 0x2F: return CLASS_LOAD; /* atomics */
    case 0x43: case 0x47: case 0x4B: case 0x4F: return CLASS_FMA;
    case 0x53: return CLASS_FP;
    case 0x57: return rv_vector(word);
    case 0x63: case 0x67: case 0x6F: return CLASS_BRANCH;
    case 0x0F: case 0x73: return CLASS_OTHER;
    default: return CLASS_INT;
  }
}
