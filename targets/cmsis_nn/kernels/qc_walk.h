/* Walks over tensors whose elements lie apart. */
#ifndef QC_WALK_H
#define QC_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "qc_kernels.h"

/* Two operands that are walked together: `rank` dimensions, outermost first, strides in elements. */
typedef struct {
  int32_t rank;
  int32_t shape[QC_DIMS];
  int32_t strides[QC_DIMS];
  int32_t other_strides[QC_DIMS];
  int32_t index[QC_DIMS];
  int32_t at; /* offsets of the current innermost row */
  int32_t other_at;
} qc_walk;

/* The start of a walk: dimensions of 1 are dropped, and those that continue each other become one, so that rows are long. */
static inline qc_walk qc_walk_of(const int32_t shape[QC_DIMS], const int32_t strides[QC_DIMS],
                                 const int32_t other_strides[QC_DIMS]) {
  qc_walk walk = {.rank = 0};
  for (int32_t axis = 0; axis < QC_DIMS; ++axis) {
    const int32_t last = walk.rank - 1;
    if (shape[axis] != 1) {
      if ((last >= 0) && (walk.strides[last] == (shape[axis] * strides[axis])) &&
          (walk.other_strides[last] == (shape[axis] * other_strides[axis]))) {
        walk.shape[last] *= shape[axis];
        walk.strides[last] = strides[axis];
        walk.other_strides[last] = other_strides[axis];
      } else {
        walk.shape[walk.rank] = shape[axis];
        walk.strides[walk.rank] = strides[axis];
        walk.other_strides[walk.rank] = other_strides[axis];
        walk.rank += 1;
      }
    }
  }
  if (walk.rank == 0) {
    walk.rank = 1;
    walk.shape[0] = 1;
  }
  return walk;
}

/* Goes on to the next innermost row; false after the last one. */
static inline bool qc_walk_on(qc_walk *walk) {
  bool more = false;
  for (int32_t axis = walk->rank - 2; (axis >= 0) && !more; --axis) {
    walk->at += walk->strides[axis];
    walk->other_at += walk->other_strides[axis];
    walk->index[axis] += 1;
    more = walk->index[axis] < walk->shape[axis];
    if (!more) {
      walk->index[axis] = 0;
      walk->at -= walk->shape[axis] * walk->strides[axis];
      walk->other_at -= walk->shape[axis] * walk->other_strides[axis];
    }
  }
  return more;
}

#endif
