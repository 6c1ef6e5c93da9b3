/* A matrix of int8 codes times vectors of int16 codes, with one factor. */
#include "arm_nnfunctions.h"
#include "qc_convolution.h"

arm_cmsis_nn_status arm_fully_connected_s16(const cmsis_nn_context *ctx, const cmsis_nn_fc_params *fc_params,
    const cmsis_nn_per_tensor_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int16_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int64_t *bias_data, const cmsis_nn_dims *output_dims, int16_t *output_data) {
  (void)ctx;
  (void)bias_dims;
  qc_convolution layer = qc_matrix(input_dims->n, filter_dims->n, output_dims->c);
  layer.activation = fc_params->activation;
  layer.multiplier = &quant_params->multiplier;
  layer.shift = &quant_params->shift;
  layer.bias_64 = bias_data;
  layer.wide = true;
  qc_convolve(QC_S16, &layer, input_data, filter_data, output_data);
  return ARM_CMSIS_NN_SUCCESS;
}

int32_t arm_fully_connected_s16_get_buffer_size(const cmsis_nn_dims *filter_dims) {
  (void)filter_dims;
  return 0;
}

int32_t arm_fully_connected_s16_get_buffer_size_dsp(const cmsis_nn_dims *filter_dims) {
  (void)filter_dims;
  return 0;
}

int32_t arm_fully_connected_s16_get_buffer_size_mve(const cmsis_nn_dims *filter_dims) {
  (void)filter_dims;
  return 0;
}
