/* Padding with a code. */
#include "arm_nnfunctions.h"
#include "qc_kernels.h"

arm_cmsis_nn_status arm_pad_s8(const int8_t *input, int8_t *output, int8_t pad_value, const cmsis_nn_dims *input_size,
    const cmsis_nn_dims *pre_pad, const cmsis_nn_dims *post_pad) {
  const qc_pad_params params = {
      .shape = {1, 1, input_size->n, input_size->h, input_size->w, input_size->c},
      .before = {0, 0, pre_pad->n, pre_pad->h, pre_pad->w, pre_pad->c},
      .after = {0, 0, post_pad->n, post_pad->h, post_pad->w, post_pad->c},
      .value = pad_value,
  };
  return qc_pad_8(input, &params, output);
}
