/* Convolutions of int16 codes with int8 weights. */
#include "arm_nnfunctions.h"
#include "qc_convolution.h"

arm_cmsis_nn_status arm_convolve_s16(const cmsis_nn_context *ctx, const cmsis_nn_conv_params *conv_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int16_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const cmsis_nn_bias_data *bias_data, const cmsis_nn_dims *output_dims, int16_t *output_data) {
  (void)ctx;
  (void)bias_dims;
  qc_convolution layer = qc_image(conv_params, quant_params, input_dims, filter_dims, output_dims);
  layer.input_offset = 0;
  layer.output_offset = 0;
  if (bias_data->is_int32_bias) {
    layer.bias = (const int32_t *)bias_data->data;
  } else {
    layer.bias_64 = (const int64_t *)bias_data->data;
    layer.wide = true;
  }
  qc_convolve(QC_S16, &layer, input_data, filter_data, output_data);
  return ARM_CMSIS_NN_SUCCESS;
}

int32_t arm_convolve_s16_get_buffer_size(const cmsis_nn_dims *input_dims, const cmsis_nn_dims *filter_dims) {
  (void)input_dims;
  (void)filter_dims;
  return 0;
}
