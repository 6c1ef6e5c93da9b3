/* Elements in another order: slices, transpositions, expansions, flips. */
#include "qc_kernels.h"
#include "qc_walk.h"

static void copy_row_8(const int8_t *from, int32_t step, int32_t length, int8_t *to) {
  for (int32_t i = 0; i < length; ++i) {
    to[i] = from[i * step];
  }
}

static void copy_row_16(const int16_t *from, int32_t step, int32_t length, int16_t *to) {
  for (int32_t i = 0; i < length; ++i) {
    to[i] = from[i * step];
  }
}

static void copy_row_32(const int32_t *from, int32_t step, int32_t length, int32_t *to) {
  for (int32_t i = 0; i < length; ++i) {
    to[i] = from[i * step];
  }
}

arm_cmsis_nn_status qc_strided_copy(const void *input, const qc_strided_params *params, int32_t element_bytes,
    void *output) {
  qc_walk walk = {.more = true};
  const int32_t length = params->shape[QC_DIMS - 1];
  const int32_t step = params->strides[QC_DIMS - 1];
  int32_t written = 0;
  if ((element_bytes != 1) && (element_bytes != 2) && (element_bytes != 4)) {
    return ARM_CMSIS_NN_ARG_ERROR;
  }
  while (walk.more) {
    const int32_t start = params->start + walk.first;
    if (element_bytes == 1) {
      copy_row_8(&((const int8_t *)input)[start], step, length, &((int8_t *)output)[written]);
    } else if (element_bytes == 2) {
      copy_row_16(&((const int16_t *)input)[start], step, length, &((int16_t *)output)[written]);
    } else {
      copy_row_32(&((const int32_t *)input)[start], step, length, &((int32_t *)output)[written]);
    }
    written += length;
    qc_next_row(&walk, params->shape, params->strides, params->strides);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
