/* Walks over the rows, the innermost dimension, of up to QC_DIMS dimensions. No dimension may be empty. */
#ifndef QC_WALK_H
#define QC_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "qc_kernels.h"

/* A walk begins with zeros and `more`. */
typedef struct {
  int32_t index[QC_DIMS];
  int32_t first;  /* where the row starts in the one operand, in elements */
  int32_t second; /* ... and in the other */
  bool more;
} qc_walk;

static inline void qc_next_row(qc_walk* walk, const int32_t* shape, const int32_t* strides,
                               const int32_t* other_strides) {
  walk->more = false;
  for (int32_t axis = QC_DIMS - 2; (axis >= 0) && !walk->more; --axis) {
    walk->index[axis] += 1;
    walk->first += strides[axis];
    walk->second += other_strides[axis];
    walk->more = walk->index[axis] < shape[axis];
    if (!walk->more) {
      walk->index[axis] = 0;
      walk->first -= shape[axis] * strides[axis];
      walk->second -= shape[axis] * other_strides[axis];
    }
  }
}

#endif
