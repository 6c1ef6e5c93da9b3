/* Means of windows of int8 codes. */
#include "arm_nnfunctions.h"
#include "qc_pool.h"

arm_cmsis_nn_status arm_avgpool_s8(const cmsis_nn_context *ctx, const cmsis_nn_pool_params *pool_params,
    const cmsis_nn_dims *input_dims, const int8_t *input_data, const cmsis_nn_dims *filter_dims,
    const cmsis_nn_dims *output_dims, int8_t *output_data) {
  (void)ctx;
  return qc_pool(true, false, pool_params, input_dims, input_data, filter_dims, output_dims, output_data);
}

int32_t arm_avgpool_s8_get_buffer_size(int dim_dst_width, int ch_src) {
  (void)dim_dst_width;
  (void)ch_src;
  return 0;
}

int32_t arm_avgpool_s8_get_buffer_size_dsp(int dim_dst_width, int ch_src) {
  (void)dim_dst_width;
  (void)ch_src;
  return 0;
}

int32_t arm_avgpool_s8_get_buffer_size_mve(int dim_dst_width, int ch_src) {
  (void)dim_dst_width;
  (void)ch_src;
  return 0;
}
