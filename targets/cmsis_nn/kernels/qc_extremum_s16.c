/* The larger or the smaller of int16 codes of different shapes. */
#include "qc_kernels.h"
#include "qc_walk.h"

arm_cmsis_nn_status qc_extremum_s16(const int16_t *input, const int16_t *other, bool largest,
    const qc_broadcast *broadcast, int16_t *output) {
  qc_walk walk = {.more = true};
  int16_t *to = output;
  const int32_t length = broadcast->shape[QC_DIMS - 1];
  const int32_t step = broadcast->strides[QC_DIMS - 1];
  const int32_t other_step = broadcast->other_strides[QC_DIMS - 1];
  while (walk.more) {
    for (int32_t i = 0; i < length; ++i) {
      const int16_t a = input[walk.first + (i * step)];
      const int16_t b = other[walk.second + (i * other_step)];
      to[i] = ((a > b) == largest) ? a : b;
    }
    to = &to[length];
    qc_next_row(&walk, broadcast->shape, broadcast->strides, broadcast->other_strides);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
