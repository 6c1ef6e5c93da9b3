/* The smaller of two int8 codes of one encoding; dimensions of 1 are repeated. */
#include "arm_nnfunctions.h"
#include "qc_kernels.h"
#include "qc_repeated.h"

arm_cmsis_nn_status arm_minimum_s8(const cmsis_nn_context *ctx, const int8_t *input_1_data,
                                   const cmsis_nn_dims *input_1_dims, const int8_t *input_2_data,
                                   const cmsis_nn_dims *input_2_dims, int8_t *output_data,
                                   const cmsis_nn_dims *output_dims) {
  (void)ctx;
  qc_broadcast broadcast = {.shape = {1, 1, output_dims->n, output_dims->h, output_dims->w, output_dims->c}};
  qc_repeated(input_1_dims, broadcast.strides);
  qc_repeated(input_2_dims, broadcast.other_strides);
  return qc_extremum_s8(input_1_data, input_2_data, false, &broadcast, output_data);
}
