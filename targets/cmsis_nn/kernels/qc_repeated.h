/* Tensors of which dimensions of 1 are repeated. */
#ifndef QC_REPEATED_H
#define QC_REPEATED_H

#include "qc_kernels.h"

/* The strides of an image [N, H, W, C]; `strides` holds zeros. */
static inline void qc_repeated(const cmsis_nn_dims *dims, int32_t strides[QC_DIMS]) {
  const int32_t shape[4] = {dims->n, dims->h, dims->w, dims->c};
  int32_t stride = 1;
  for (int32_t axis = 3; axis >= 0; --axis) {
    strides[QC_DIMS - 4 + axis] = (shape[axis] == 1) ? 0 : stride;
    stride *= shape[axis];
  }
}

#endif
