/* Maxima of windows of int16 codes. */
#include "arm_nnfunctions.h"
#include "qc_pool.h"

arm_cmsis_nn_status arm_max_pool_s16(const cmsis_nn_context *ctx, const cmsis_nn_pool_params *pool_params,
    const cmsis_nn_dims *input_dims, const int16_t *src, const cmsis_nn_dims *filter_dims,
    const cmsis_nn_dims *output_dims, int16_t *dst) {
  (void)ctx;
  return qc_pool(false, true, pool_params, input_dims, src, filter_dims, output_dims, dst);
}
