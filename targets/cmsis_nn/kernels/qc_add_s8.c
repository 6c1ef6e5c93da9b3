/* Sums and differences of int8 codes of different shapes. */
#include "qc_elementwise.h"
#include "qc_kernels.h"
#include "qc_walk.h"

arm_cmsis_nn_status qc_add_s8(const int8_t *input, const int8_t *other, const qc_add_params *params,
    const qc_broadcast *broadcast, int8_t *output) {
  qc_walk walk = {.more = true};
  int8_t *to = output;
  const int32_t length = broadcast->shape[QC_DIMS - 1];
  const int32_t step = broadcast->strides[QC_DIMS - 1];
  const int32_t other_step = broadcast->other_strides[QC_DIMS - 1];
  while (walk.more) {
    const int8_t *a = &input[walk.first];
    const int8_t *b = &other[walk.second];
    for (int32_t i = 0; i < length; ++i) {
      to[i] = (int8_t)qc_sum(params, a[i * step], b[i * other_step]);
    }
    to = &to[length];
    qc_next_row(&walk, broadcast->shape, broadcast->strides, broadcast->other_strides);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
