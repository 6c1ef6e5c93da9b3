/* Products of stacks of int16 matrices, the second of each pair transposed. */
#include "arm_nnfunctions.h"
#include "qc_internal.h"

static int64_t dot(const int16_t *a, const int16_t *b, int32_t count) {
  int64_t sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    sum += (int64_t)((int32_t)a[i] * (int32_t)b[i]);
  }
  return sum;
}

arm_cmsis_nn_status arm_batch_matmul_s16(const cmsis_nn_context *ctx, const cmsis_nn_bmm_params *bmm_params,
    const cmsis_nn_per_tensor_quant_params *quant_params, const cmsis_nn_dims *input_lhs_dims, const int16_t *input_lhs,
    const cmsis_nn_dims *input_rhs_dims, const int16_t *input_rhs, const cmsis_nn_dims *output_dims, int16_t *output) {
  (void)ctx;
  const int32_t rows = input_lhs_dims->w;
  const int32_t columns = input_rhs_dims->w;
  const int32_t depth = input_rhs_dims->c;
  const cmsis_nn_activation activation = bmm_params->fc_params.activation;
  int16_t *to = output;
  for (int32_t n = 0; n < output_dims->n; ++n) {
    for (int32_t h = 0; h < output_dims->h; ++h) {
      const int16_t *left = &input_lhs[qc_stacked(input_lhs_dims, n, h) * rows * depth];
      const int16_t *right = &input_rhs[qc_stacked(input_rhs_dims, n, h) * columns * depth];
      for (int32_t row = 0; row < rows; ++row) {
        for (int32_t column = 0; column < columns; ++column) {
          const int64_t sum = dot(&left[row * depth], &right[column * depth], depth);
          const int32_t y = qc_requantize_wide(sum, quant_params->multiplier, quant_params->shift);
          *to = (int16_t)qc_clamp(y, activation.min, activation.max);
          to += 1;
        }
      }
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
