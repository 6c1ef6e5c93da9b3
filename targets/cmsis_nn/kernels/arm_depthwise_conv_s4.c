/* Depthwise convolutions of int8 codes with packed int4 weights. */
#include "arm_nnfunctions.h"
#include "qc_depthwise.h"

arm_cmsis_nn_status arm_depthwise_conv_s4(const cmsis_nn_context *ctx, const cmsis_nn_dw_conv_params *dw_conv_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int8_t *input,
    const cmsis_nn_dims *filter_dims, const int8_t *kernel, const cmsis_nn_dims *bias_dims, const int32_t *bias,
    const cmsis_nn_dims *output_dims, int8_t *output) {
  (void)ctx;
  (void)bias_dims;
  const qc_depthwise layer = {
      .params = dw_conv_params,
      .factors = quant_params,
      .input = input_dims,
      .kernel = filter_dims,
      .output = output_dims,
      .bias = bias,
  };
  return qc_convolve_depthwise(QC_S4, &layer, input, kernel, output);
}
