/* The larger or the smaller of two codes. */
#ifndef QC_EXTREMUM_H
#define QC_EXTREMUM_H

#include "qc_internal.h"
#include "qc_walk.h"

/* Codes of 16 bits if `wide`, else of 8. */
static inline arm_cmsis_nn_status qc_extremum(bool wide, bool largest, const void *input, const void *other,
                                              const qc_broadcast *broadcast, void *output) {
  qc_walk walk = qc_walk_of(broadcast->shape, broadcast->strides, broadcast->other_strides);
  const int32_t count = walk.shape[walk.rank - 1];
  const int32_t step = walk.strides[walk.rank - 1];
  const int32_t other_step = walk.other_strides[walk.rank - 1];
  int32_t written = 0;
  do {
    for (int32_t i = 0; i < count; ++i) {
      const int32_t at = walk.at + (i * step);
      const int32_t other_at = walk.other_at + (i * other_step);
      if (wide) {
        const int32_t a = ((const int16_t *)input)[at];
        const int32_t b = ((const int16_t *)other)[other_at];
        ((int16_t *)output)[written + i] = (int16_t)(largest ? qc_max(a, b) : qc_min(a, b));
      } else {
        const int32_t a = ((const int8_t *)input)[at];
        const int32_t b = ((const int8_t *)other)[other_at];
        ((int8_t *)output)[written + i] = (int8_t)(largest ? qc_max(a, b) : qc_min(a, b));
      }
    }
    written += count;
  } while (qc_walk_on(&walk));
  return ARM_CMSIS_NN_SUCCESS;
}

/* Images [N, H, W, C] of which each dimension of 1 is repeated. */
static inline qc_broadcast qc_broadcast_of(const cmsis_nn_dims *dims, const cmsis_nn_dims *other_dims,
                                           const cmsis_nn_dims *output_dims) {
  const qc_broadcast broadcast = {
      .shape = {1, 1, output_dims->n, output_dims->h, output_dims->w, output_dims->c},
      .strides = {0, 0, (dims->n == 1) ? 0 : (dims->h * dims->w * dims->c), (dims->h == 1) ? 0 : (dims->w * dims->c),
                  (dims->w == 1) ? 0 : dims->c, (dims->c == 1) ? 0 : 1},
      .other_strides = {0, 0, (other_dims->n == 1) ? 0 : (other_dims->h * other_dims->w * other_dims->c),
                        (other_dims->h == 1) ? 0 : (other_dims->w * other_dims->c),
                        (other_dims->w == 1) ? 0 : other_dims->c, (other_dims->c == 1) ? 0 : 1},
  };
  return broadcast;
}

#endif
