/* Convolutions of int8 codes with packed int4 weights. */
#include "arm_nnfunctions.h"
#include "qc_convolution.h"

arm_cmsis_nn_status arm_convolve_s4(const cmsis_nn_context *ctx, const cmsis_nn_conv_params *conv_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int8_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int32_t *bias_data, const cmsis_nn_dims *output_dims, int8_t *output_data) {
  (void)ctx;
  (void)bias_dims;
  qc_convolution layer = qc_image(conv_params, quant_params, input_dims, filter_dims, output_dims);
  layer.bias = bias_data;
  qc_convolve(QC_S4, &layer, input_data, filter_data, output_data);
  return ARM_CMSIS_NN_SUCCESS;
}

int32_t arm_convolve_s4_get_buffer_size(const cmsis_nn_dims *input_dims, const cmsis_nn_dims *filter_dims) {
  (void)input_dims;
  (void)filter_dims;
  return 0;
}
