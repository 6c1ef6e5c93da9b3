/* Arithmetic of two codes. */
#ifndef QC_ELEMENTWISE_H
#define QC_ELEMENTWISE_H

#include "qc_internal.h"
#include "qc_kernels.h"

static inline int32_t qc_sum(const qc_add_params* params, int32_t a, int32_t b) {
  const int32_t shifted = qc_shift_left_wrapping(a + params->input_offset, params->left_shift);
  const int32_t other_shifted = qc_shift_left_wrapping(b + params->other_offset, params->left_shift);
  const int32_t first = qc_requantize(shifted, params->input_multiplier, params->input_shift);
  const int32_t second = qc_requantize(other_shifted, params->other_multiplier, params->other_shift);
  const int32_t sum = qc_add_wrapping(first, (params->sign < 0) ? -second : second);
  const int32_t y = qc_requantize(sum, params->output_multiplier, params->output_shift);
  return qc_code(y, params->output_offset, params->activation.min, params->activation.max);
}

static inline int32_t qc_product(const qc_mul_params* params, int32_t a, int32_t b) {
  const int32_t product = (a + params->input_offset) * (b + params->other_offset);
  const int32_t y = qc_requantize(product, params->multiplier, params->shift);
  return qc_code(y, params->output_offset, params->activation.min, params->activation.max);
}

#endif
