/*
 * Fixed-point arithmetic that the kernels share.
 *
 * A real factor is multiplier / 2^31 * 2^shift; products are rounded to 32 bits (halves up) and then shifted (halves
 * away from zero), or rounded once where CMSIS_NN_USE_SINGLE_ROUNDING is defined, as in CMSIS-NN. Where 32 bits
 * overflow, what is left of them counts; such sums and shifts are unsigned here, for signed ones are undefined.
 * Shifts of negative numbers to the right keep their sign, which C leaves to the compiler and all compilers for these
 * machines do.
 */
#ifndef QC_INTERNAL_H
#define QC_INTERNAL_H

#include <stdint.h>

#include "arm_nn_types.h"

/* What codes and weights are; packed codes of 4 bits are for weights only. */
typedef enum {
  QC_S8, /* codes of 8 bits, weights of 8 */
  QC_S4, /* codes of 8 bits, weights of 4 */
  QC_S16 /* codes of 16 bits, weights of 8 */
} qc_kind;

static inline int32_t qc_min(int32_t a, int32_t b) {
  return (a < b) ? a : b;
}

static inline int32_t qc_max(int32_t a, int32_t b) {
  return (a > b) ? a : b;
}

static inline int32_t qc_clamp(int32_t x, int32_t low, int32_t high) {
  return qc_min(qc_max(x, low), high);
}

/* The code of a number; clamped before the offset is added, so that nothing overflows. */
static inline int32_t qc_code(int32_t x, int32_t offset, int32_t low, int32_t high) {
  return qc_clamp(x, low - offset, high - offset) + offset;
}

static inline int32_t qc_add_wrapping(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t qc_subtract_wrapping(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a - (uint32_t)b);
}

static inline int32_t qc_shift_left_wrapping(int32_t x, int32_t bits) {
  return (int32_t)((uint32_t)x << (uint32_t)bits);
}

/* a * b / 2^31, halves up. Both must not be -2^31. */
static inline int32_t qc_high_multiply(int32_t a, int32_t b) {
  return (int32_t)((((int64_t)a * b) + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^bits, halves away from zero; bits 0 to 31. */
static inline int32_t qc_divide_rounding(int32_t x, int32_t bits) {
  const int32_t mask = (int32_t)(((uint32_t)1 << (uint32_t)bits) - 1U);
  const int32_t threshold = (mask >> 1) + ((x < 0) ? 1 : 0);
  return (x >> bits) + (((x & mask) > threshold) ? 1 : 0);
}

/* x times the factor; shift -31 to 30. */
static inline int32_t qc_requantize(int32_t x, int32_t multiplier, int32_t shift) {
#ifdef CMSIS_NN_USE_SINGLE_ROUNDING
  return (int32_t)(((((int64_t)x * multiplier) >> (30 - shift)) + 1) >> 1);
#else
  const int32_t left = qc_max(shift, 0);
  return qc_divide_rounding(qc_high_multiply(qc_shift_left_wrapping(x, left), multiplier), left - shift);
#endif
}

/* x times the factor, its multiplier rounded to 16 bits; shift -31 to 14. */
static inline int32_t qc_requantize_wide(int64_t x, int32_t multiplier, int32_t shift) {
  const int32_t reduced = (multiplier < 0x7FFF0000) ? ((multiplier + (1 << 15)) >> 16) : 0x7FFF;
  const int64_t product = (int64_t)((uint64_t)x * (uint64_t)(int64_t)reduced);
  const int32_t doubled = (int32_t)(product >> (14 - shift));
  return (int32_t)(((int64_t)doubled + 1) >> 1);
}

/* Element `index` of codes of 4 bits, two in a byte, the first in the low half. */
static inline int8_t qc_nibble(const int8_t *packed, int32_t index) {
  const int32_t byte = packed[index >> 1];
  const int32_t code = (((index & 1) != 0) ? (byte >> 4) : byte) & 15;
  return (int8_t)((code ^ 8) - 8);
}

/* Which matrix of a stack [N, H] is used; N and H of 1 stand for any. */
static inline int32_t qc_stacked(const cmsis_nn_dims *dims, int32_t n, int32_t h) {
  return (((dims->n > 1) ? n : 0) * dims->h) + ((dims->h > 1) ? h : 0);
}

#endif
