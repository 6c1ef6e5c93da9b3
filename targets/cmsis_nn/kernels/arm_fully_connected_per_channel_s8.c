/* A matrix of int8 codes times vectors, with a factor per output. */
#include "arm_nnfunctions.h"
#include "qc_convolution.h"

arm_cmsis_nn_status arm_fully_connected_per_channel_s8(const cmsis_nn_context *ctx, const cmsis_nn_fc_params *fc_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int8_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int32_t *bias_data, const cmsis_nn_dims *output_dims, int8_t *output_data) {
  (void)ctx;
  (void)bias_dims;
  qc_convolution layer = qc_matrix(input_dims->n, filter_dims->n, output_dims->c);
  layer.input_offset = fc_params->input_offset;
  layer.filter_offset = fc_params->filter_offset;
  layer.output_offset = fc_params->output_offset;
  layer.activation = fc_params->activation;
  layer.multiplier = quant_params->multiplier;
  layer.shift = quant_params->shift;
  layer.factor_step = 1;
  layer.bias = bias_data;
  qc_convolve(QC_S8, &layer, input_data, filter_data, output_data);
  return ARM_CMSIS_NN_SUCCESS;
}
