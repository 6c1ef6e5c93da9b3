/* Copies of elements that lie apart. */
#ifndef QC_COPY_H
#define QC_COPY_H

#include <stddef.h>
#include <string.h>

#include "qc_walk.h"

/* Elements of 1, 2 or 4 bytes, to a dense output. */
static inline arm_cmsis_nn_status qc_copy_strided(const void *input, const qc_strided_params *params, int32_t bytes,
                                                  void *output) {
  qc_walk walk = qc_walk_of(params->shape, params->strides, params->strides);
  const int32_t count = walk.shape[walk.rank - 1];
  const int32_t step = walk.strides[walk.rank - 1];
  int32_t written = 0;
  if ((bytes != 1) && (bytes != 2) && (bytes != 4)) {
    return ARM_CMSIS_NN_ARG_ERROR;
  }
  do {
    const int32_t start = params->start + walk.at;
    if (step == 1) {
      (void)memcpy(&((int8_t *)output)[written * bytes], &((const int8_t *)input)[start * bytes],
                   (size_t)count * (size_t)bytes);
    } else if (bytes == 1) {
      for (int32_t i = 0; i < count; ++i) {
        ((int8_t *)output)[written + i] = ((const int8_t *)input)[start + (i * step)];
      }
    } else if (bytes == 2) {
      for (int32_t i = 0; i < count; ++i) {
        ((int16_t *)output)[written + i] = ((const int16_t *)input)[start + (i * step)];
      }
    } else {
      for (int32_t i = 0; i < count; ++i) {
        ((int32_t *)output)[written + i] = ((const int32_t *)input)[start + (i * step)];
      }
    }
    written += count;
  } while (qc_walk_on(&walk));
  return ARM_CMSIS_NN_SUCCESS;
}

#endif
