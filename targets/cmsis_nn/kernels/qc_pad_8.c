/* Padding of elements of 8 bits. */
#include "qc_kernels.h"
#include "qc_walk.h"

arm_cmsis_nn_status qc_pad_8(const int8_t *input, const qc_pad_params *params, int8_t *output) {
  /* The padding is written first: which of it stands before which row would take longer to say than to write. */
  int32_t strides[QC_DIMS];
  int32_t start = 0;
  int32_t size = 1;
  for (int32_t axis = QC_DIMS - 1; axis >= 0; --axis) {
    strides[axis] = size;
    start += params->before[axis] * size;
    size *= params->before[axis] + params->shape[axis] + params->after[axis];
  }
  for (int32_t i = 0; i < size; ++i) {
    output[i] = (int8_t)params->value;
  }
  qc_walk walk = {.more = true};
  const int8_t *from = input;
  const int32_t length = params->shape[QC_DIMS - 1];
  while (walk.more) {
    int8_t *to = &output[start + walk.first];
    for (int32_t i = 0; i < length; ++i) {
      to[i] = from[i];
    }
    from = &from[length];
    qc_next_row(&walk, params->shape, strides, strides);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
