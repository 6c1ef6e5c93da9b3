/*
 * Softmax of rows of 8-bit codes in fixed point, as in gemmlowp (fixedpoint.h), TensorFlow Lite and CMSIS-NN.
 *
 * With d = x - max(x): e = exp(d * factor) with 31 fractional bits; their sum has 19, so that it fits for rows of
 * less than 4096 elements; y = e / sum.
 */
#ifndef QC_SOFTMAX_H
#define QC_SOFTMAX_H

#include "arm_nn_types.h"
#include "qc_internal.h"

#define QC_SUM_BITS 12 /* by which e is shifted before it is summed */

/* a * b / 2^31, halves up, saturating. */
static inline int32_t qc_high_multiply_saturating(int32_t a, int32_t b) {
  return ((a == INT32_MIN) && (b == INT32_MIN)) ? INT32_MAX : qc_high_multiply(a, b);
}

static inline int32_t qc_shift_left_saturating(int32_t x, int32_t bits) {
  const int64_t wide = (int64_t)x * ((int64_t)1 << bits);
  return (int32_t)((wide > INT32_MAX) ? INT32_MAX : ((wide < INT32_MIN) ? INT32_MIN : wide));
}

/* exp(x), x not positive with 26 fractional bits. */
static inline int32_t qc_exp(int32_t x) {
  /* exp(-2^k / 4) for k = 0 to 6 */
  static const int32_t powers[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
  static const int32_t quarter = (int32_t)1 << 24;
  const int32_t part = (x & (quarter - 1)) - quarter; /* in [-1/4, 0); the rest is a multiple of 1/4 */
  const int32_t rest = part - x;
  const int32_t y = qc_shift_left_wrapping(part, 5) + ((int32_t)1 << 28); /* 31 fractional bits, plus 1/8 */
  const int32_t square = qc_high_multiply_saturating(y, y);
  const int32_t cube = qc_high_multiply_saturating(square, y);
  const int32_t higher = qc_divide_rounding(qc_high_multiply_saturating(square, square), 2) + cube;
  const int32_t third = qc_high_multiply_saturating(higher, 715827883);
  const int32_t series = y + qc_divide_rounding(third + square, 1);
  int32_t result = 1895147668 + qc_high_multiply_saturating(1895147668, series); /* exp(-1/8) times the series */
  for (int32_t bit = 0; bit < 7; ++bit) {
    if ((rest & (quarter << bit)) != 0) {
      result = qc_high_multiply_saturating(result, powers[bit]);
    }
  }
  return (x == 0) ? INT32_MAX : result;
}

/* 1 / (1 + x), x in [0, 1), 31 fractional bits: three Newton steps for half of the denominator. */
static inline int32_t qc_one_over_one_plus(int32_t x) {
  const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
  int32_t inverse = 1515870810 + qc_high_multiply_saturating(half, -1010580540); /* 48/17 - 32/17 * half */
  for (int32_t step = 0; step < 3; ++step) {
    const int32_t miss = ((int32_t)1 << 29) - qc_high_multiply_saturating(half, inverse);
    inverse += qc_shift_left_saturating(qc_high_multiply_saturating(inverse, miss), 2);
  }
  return qc_shift_left_saturating(inverse, 1);
}

static inline int32_t qc_leading_zeros(int32_t x) {
  int32_t zeros = 0;
  while ((zeros < 32) && ((((uint32_t)x >> (31U - (uint32_t)zeros)) & 1U) == 0U)) {
    zeros += 1;
  }
  return zeros;
}

/* Writes int16_t if `wide`, else int8_t. */
static inline void qc_softmax(bool wide, const int8_t *input, int32_t rows, int32_t length, int32_t multiplier,
                              int32_t shift, int32_t least_difference, void *output) {
  const int32_t lowest = wide ? INT16_MIN : INT8_MIN;
  const int32_t highest = wide ? INT16_MAX : INT8_MAX;
  int32_t written = 0;
  for (int32_t row = 0; row < rows; ++row) {
    const int8_t *x = &input[row * length];
    int32_t largest = x[0];
    int32_t sum = 0;
    for (int32_t i = 1; i < length; ++i) {
      largest = qc_max(largest, x[i]);
    }
    for (int32_t i = 0; i < length; ++i) {
      const int32_t difference = x[i] - largest;
      if (difference >= least_difference) {
        const int32_t scaled = qc_high_multiply_saturating(qc_shift_left_wrapping(difference, shift), multiplier);
        sum = qc_add_wrapping(sum, qc_divide_rounding(qc_exp(scaled), QC_SUM_BITS));
      }
    }
    const int32_t headroom = qc_leading_zeros(sum);
    const int32_t fraction = (int32_t)(((sum > 0) ? ((uint32_t)sum << (uint32_t)headroom) : 0U) - 0x80000000U);
    const int32_t inverse = qc_one_over_one_plus(fraction);
    const int32_t bits = QC_SUM_BITS - headroom + (wide ? 15 : 23);
    for (int32_t i = 0; i < length; ++i) {
      const int32_t difference = x[i] - largest;
      int32_t code = lowest;
      if (difference >= least_difference) {
        const int32_t scaled = qc_high_multiply_saturating(qc_shift_left_wrapping(difference, shift), multiplier);
        const int32_t quotient = qc_high_multiply_saturating(inverse, qc_exp(scaled));
        code = qc_code((bits < 32) ? qc_divide_rounding(quotient, bits) : 0, lowest, lowest, highest);
      }
      if (wide) {
        ((int16_t *)output)[written] = (int16_t)code;
      } else {
        ((int8_t *)output)[written] = (int8_t)code;
      }
      written += 1;
    }
  }
}

#endif
