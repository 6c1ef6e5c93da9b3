/* Padding, row by row of the output. */
#ifndef QC_PADDING_H
#define QC_PADDING_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "qc_kernels.h"

/* Writes a code `count` times, from element `start` on; the result is the element behind. */
static inline int32_t qc_fill(bool wide, int32_t value, int32_t count, void *output, int32_t start) {
  if (wide) {
    for (int32_t i = 0; i < count; ++i) {
      ((int16_t *)output)[start + i] = (int16_t)value;
    }
  } else {
    (void)memset(&((int8_t *)output)[start], value, (size_t)count);
  }
  return start + count;
}

/* Codes of 16 bits if `wide`, else of 8. */
static inline arm_cmsis_nn_status qc_pad(bool wide, const void *input, const qc_pad_params *params, void *output) {
  const int32_t bytes = wide ? 2 : 1;
  const int32_t length = params->shape[QC_DIMS - 1];
  const int32_t front = params->before[QC_DIMS - 1];
  const int32_t back = params->after[QC_DIMS - 1];
  int32_t index[QC_DIMS - 1] = {0}; /* of the output's row */
  int32_t read = 0;
  int32_t written = 0;
  bool more = true;
  while (more) {
    bool inside = true;
    for (int32_t axis = 0; axis < (QC_DIMS - 1); ++axis) {
      const int32_t from = index[axis] - params->before[axis];
      inside = inside && (from >= 0) && (from < params->shape[axis]);
    }
    if (inside) {
      written = qc_fill(wide, params->value, front, output, written);
      (void)memcpy(&((int8_t *)output)[written * bytes], &((const int8_t *)input)[read * bytes],
                   (size_t)length * (size_t)bytes);
      read += length;
      written = qc_fill(wide, params->value, back, output, written + length);
    } else {
      written = qc_fill(wide, params->value, front + length + back, output, written);
    }
    more = false;
    for (int32_t axis = QC_DIMS - 2; (axis >= 0) && !more; --axis) {
      index[axis] += 1;
      more = index[axis] < (params->before[axis] + params->shape[axis] + params->after[axis]);
      if (!more) {
        index[axis] = 0;
      }
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}

#endif
