/* Elementwise arithmetic of codes. */
#ifndef QC_ARITHMETIC_H
#define QC_ARITHMETIC_H

#include "qc_internal.h"
#include "qc_kernels.h"

/* Sum or difference. The shift to the left keeps bits that the operands' factors would round away. */
static inline int32_t qc_add_codes(int32_t a, int32_t b, const qc_add_params *params) {
  const int32_t shifted = qc_shift_left_wrapping(a + params->input_offset, params->left_shift);
  const int32_t other_shifted = qc_shift_left_wrapping(b + params->other_offset, params->left_shift);
  const int32_t first = qc_requantize(shifted, params->input_multiplier, params->input_shift);
  const int32_t second = qc_requantize(other_shifted, params->other_multiplier, params->other_shift);
  const int32_t sum = qc_add_wrapping(first, params->sign * second);
  const int32_t y = qc_requantize(sum, params->output_multiplier, params->output_shift) + params->output_offset;
  return qc_clamp(y, params->activation.min, params->activation.max);
}

static inline int32_t qc_mul_codes(int32_t a, int32_t b, const qc_mul_params *params) {
  const int32_t product = (int32_t)((int64_t)(a + params->input_offset) * (b + params->other_offset));
  const int32_t y = qc_requantize(product, params->multiplier, params->shift) + params->output_offset;
  return qc_clamp(y, params->activation.min, params->activation.max);
}

static inline int32_t qc_rescale_code(int32_t x, const qc_rescale_params *params) {
  const int32_t y = qc_requantize(x, params->multiplier, params->shift) + params->output_offset;
  return qc_clamp(y, params->activation.min, params->activation.max);
}

#endif
