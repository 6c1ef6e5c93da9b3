/* Products of stacks of int8 matrices, the second of each pair transposed. */
#include "arm_nnfunctions.h"
#include "qc_convolution.h"

arm_cmsis_nn_status arm_batch_matmul_s8(const cmsis_nn_context *ctx, const cmsis_nn_bmm_params *bmm_params,
    const cmsis_nn_per_tensor_quant_params *quant_params, const cmsis_nn_dims *input_lhs_dims, const int8_t *input_lhs,
    const cmsis_nn_dims *input_rhs_dims, const int8_t *input_rhs, const cmsis_nn_dims *output_dims, int8_t *output) {
  (void)ctx;
  const int32_t rows = input_lhs_dims->w;
  const int32_t columns = input_rhs_dims->w;
  const int32_t depth = input_rhs_dims->c;
  qc_convolution layer = qc_matrix(rows, depth, columns);
  layer.input_offset = bmm_params->fc_params.input_offset;
  layer.filter_offset = bmm_params->fc_params.filter_offset;
  layer.output_offset = bmm_params->fc_params.output_offset;
  layer.activation = bmm_params->fc_params.activation;
  layer.multiplier = &quant_params->multiplier;
  layer.shift = &quant_params->shift;
  for (int32_t n = 0; n < output_dims->n; ++n) {
    for (int32_t h = 0; h < output_dims->h; ++h) {
      const int32_t left = qc_stacked(input_lhs_dims, n, h);
      const int32_t right = qc_stacked(input_rhs_dims, n, h);
      const int32_t made = (n * output_dims->h) + h;
      qc_convolve(QC_S8, &layer, &input_lhs[left * rows * depth], &input_rhs[right * columns * depth],
                  &output[made * rows * columns]);
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
