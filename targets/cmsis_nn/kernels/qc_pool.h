/* Maxima and means over windows of images [N, H, W, C]. */
#ifndef QC_POOL_H
#define QC_POOL_H

#include "arm_nn_types.h"
#include "qc_internal.h"

#define QC_POOL_CHANNELS 64 /* channels computed together */

/* Sums or maxima of channels over the part of a window that lies inside: rows and columns from first to last - 1. */
static inline void qc_pool_window(bool average, bool wide, const void *input, int32_t width, int32_t depth,
                                  cmsis_nn_tile first, cmsis_nn_tile last, int32_t channel, int32_t count,
                                  int32_t *result) {
  for (int32_t i = 0; i < count; ++i) {
    result[i] = average ? 0 : INT32_MIN;
  }
  for (int32_t row = first.h; row < last.h; ++row) {
    for (int32_t column = first.w; column < last.w; ++column) {
      const int32_t start = (((row * width) + column) * depth) + channel;
      if (wide) {
        const int16_t *from = &((const int16_t *)input)[start];
        for (int32_t i = 0; i < count; ++i) {
          result[i] = average ? (result[i] + from[i]) : qc_max(result[i], from[i]);
        }
      } else {
        const int8_t *from = &((const int8_t *)input)[start];
        for (int32_t i = 0; i < count; ++i) {
          result[i] = average ? (result[i] + from[i]) : qc_max(result[i], from[i]);
        }
      }
    }
  }
}

/* Reads and writes int16_t if `wide`, else int8_t. A window must not lie outside altogether. */
static inline arm_cmsis_nn_status qc_pool(bool average, bool wide, const cmsis_nn_pool_params *params,
                                          const cmsis_nn_dims *input_dims, const void *input,
                                          const cmsis_nn_dims *window, const cmsis_nn_dims *output_dims,
                                          void *output) {
  const int32_t depth = input_dims->c;
  const int8_t *image = input;
  int32_t written = 0;
  if (input_dims->n < 1) {
    return ARM_CMSIS_NN_ARG_ERROR;
  }
  for (int32_t n = 0; n < input_dims->n; ++n) {
    for (int32_t row = 0; row < output_dims->h; ++row) {
      for (int32_t column = 0; column < output_dims->w; ++column) {
        const int32_t y = (row * params->stride.h) - params->padding.h;
        const int32_t x = (column * params->stride.w) - params->padding.w;
        const cmsis_nn_tile first = {.h = qc_max(y, 0), .w = qc_max(x, 0)};
        const cmsis_nn_tile last = {.h = qc_min(y + window->h, input_dims->h),
                                    .w = qc_min(x + window->w, input_dims->w)};
        const int32_t inside = (last.h - first.h) * (last.w - first.w);
        if ((last.h <= first.h) || (last.w <= first.w)) {
          return ARM_CMSIS_NN_ARG_ERROR;
        }
        for (int32_t channel = 0; channel < depth; channel += QC_POOL_CHANNELS) {
          const int32_t count = qc_min(QC_POOL_CHANNELS, depth - channel);
          int32_t results[QC_POOL_CHANNELS];
          qc_pool_window(average, wide, image, input_dims->w, depth, first, last, channel, count, results);
          for (int32_t i = 0; i < count; ++i) {
            int32_t code = results[i];
            if (average) {
              code = (code + ((code > 0) ? (inside / 2) : -(inside / 2))) / inside;
            }
            code = qc_clamp(code, params->activation.min, params->activation.max);
            if (wide) {
              ((int16_t *)output)[written + i] = (int16_t)code;
            } else {
              ((int8_t *)output)[written + i] = (int8_t)code;
            }
          }
          written += count;
        }
      }
    }
    image = &image[input_dims->h * input_dims->w * depth * (wide ? 2 : 1)];
  }
  return ARM_CMSIS_NN_SUCCESS;
}

#endif
