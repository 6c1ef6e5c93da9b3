/* Depthwise convolutions of int8 codes. */
#include "arm_nnfunctions.h"
#include "qc_depthwise.h"

arm_cmsis_nn_status arm_depthwise_conv_s8(const cmsis_nn_context *ctx, const cmsis_nn_dw_conv_params *dw_conv_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int8_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int32_t *bias_data, const cmsis_nn_dims *output_dims, int8_t *output_data) {
  (void)ctx;
  (void)bias_dims;
  const qc_depthwise layer = {
      .params = dw_conv_params,
      .factors = quant_params,
      .input = input_dims,
      .kernel = filter_dims,
      .output = output_dims,
      .bias = bias_data,
  };
  return qc_convolve_depthwise(QC_S8, &layer, input_data, filter_data, output_data);
}
