/* Depthwise convolutions: every output channel reads one input channel. */
#ifndef QC_DEPTHWISE_H
#define QC_DEPTHWISE_H

#include <stddef.h>

#include "arm_nn_types.h"
#include "qc_internal.h"

#define QC_DEPTHWISE_CHANNELS 64 /* output channels computed together */
#define QC_DEPTHWISE_TAPS 256    /* a sum of as many products of 16 and 8 bits fits 32 */

/* Images [N, H, W, C], filters [KH, KW, C * ch_mult]; output channel c * ch_mult + m reads channel c. int16 ignores
 * offsets. */
typedef struct {
  const cmsis_nn_dw_conv_params *params;
  const cmsis_nn_per_channel_quant_params *factors;
  const cmsis_nn_dims *input;
  const cmsis_nn_dims *kernel;
  const cmsis_nn_dims *output;
  const void *bias; /* int32_t, or int64_t for QC_S16; may be NULL */
} qc_depthwise;

/* Adds the products of one tap to the sums of channels `channel` and up. */
static inline void qc_depthwise_tap(qc_kind kind, const void *input, int32_t pixel, const int8_t *filter, int32_t row,
                                    int32_t channel, int32_t count, int32_t multiplier, int32_t offset,
                                    int32_t *sums) {
  int8_t unpacked[QC_DEPTHWISE_CHANNELS];
  const int8_t *weights = &filter[row + channel];
  if (kind == QC_S4) {
    for (int32_t i = 0; i < count; ++i) {
      unpacked[i] = qc_nibble(filter, row + channel + i);
    }
    weights = unpacked;
  }
  const int32_t start = pixel + (channel / multiplier);
  int32_t within = channel % multiplier;
  if (kind == QC_S16) {
    const int16_t *from = &((const int16_t *)input)[start];
    if (multiplier == 1) {
      for (int32_t i = 0; i < count; ++i) {
        sums[i] += from[i] * weights[i];
      }
    } else {
      for (int32_t i = 0; i < count; ++i) {
        sums[i] += *from * weights[i];
        within += 1;
        if (within == multiplier) {
          within = 0;
          from += 1;
        }
      }
    }
  } else {
    const int8_t *from = &((const int8_t *)input)[start];
    if (multiplier == 1) {
      for (int32_t i = 0; i < count; ++i) {
        const int16_t x = (int16_t)(from[i] + offset);
        sums[i] += x * weights[i];
      }
    } else {
      for (int32_t i = 0; i < count; ++i) {
        sums[i] += (*from + offset) * weights[i];
        within += 1;
        if (within == multiplier) {
          within = 0;
          from += 1;
        }
      }
    }
  }
}

static inline int32_t qc_depthwise_finish(qc_kind kind, const qc_depthwise *layer, int64_t sum, int32_t channel) {
  const int32_t multiplier = layer->factors->multiplier[channel];
  const int32_t shift = layer->factors->shift[channel];
  int32_t y;
  if (kind == QC_S16) {
    const int64_t bias = (layer->bias != NULL) ? ((const int64_t *)layer->bias)[channel] : 0;
    y = qc_requantize_wide(sum + bias, multiplier, shift);
  } else {
    const int32_t bias = (layer->bias != NULL) ? ((const int32_t *)layer->bias)[channel] : 0;
    y = qc_requantize((int32_t)(sum + bias), multiplier, shift);
  }
  return qc_code(y, (kind == QC_S16) ? 0 : layer->params->output_offset, layer->params->activation.min,
                 layer->params->activation.max);
}

/* The sums of channels `channel` and up of the output pixel whose tap (0, 0) reads (x, y). */
static inline void qc_depthwise_sums(qc_kind kind, const qc_depthwise *layer, const void *input, const int8_t *filter,
                                     int32_t x, int32_t y, int32_t channel, int32_t count, int64_t *totals) {
  const cmsis_nn_tile dilation = layer->params->dilation;
  int32_t sums[QC_DEPTHWISE_CHANNELS] = {0};
  int32_t taps = 0;
  for (int32_t tap_y = 0; tap_y < layer->kernel->h; ++tap_y) {
    const int32_t row = y + (tap_y * dilation.h);
    for (int32_t tap_x = 0; tap_x < layer->kernel->w; ++tap_x) {
      const int32_t column = x + (tap_x * dilation.w);
      if ((row >= 0) && (row < layer->input->h) && (column >= 0) && (column < layer->input->w)) {
        const int32_t pixel = ((row * layer->input->w) + column) * layer->input->c;
        const int32_t weights = ((tap_y * layer->kernel->w) + tap_x) * layer->output->c;
        qc_depthwise_tap(kind, input, pixel, filter, weights, channel, count, layer->params->ch_mult,
                         layer->params->input_offset, sums);
        taps += 1;
        if (taps == QC_DEPTHWISE_TAPS) {
          taps = 0;
          for (int32_t i = 0; i < count; ++i) {
            totals[i] += sums[i];
            sums[i] = 0;
          }
        }
      }
    }
  }
  for (int32_t i = 0; i < count; ++i) {
    totals[i] += sums[i];
  }
}

/* Reads and writes int16_t if `kind` is QC_S16, else int8_t. */
static inline arm_cmsis_nn_status qc_convolve_depthwise(qc_kind kind, const qc_depthwise *layer, const void *input,
                                                        const int8_t *filter, void *output) {
  const cmsis_nn_dw_conv_params *params = layer->params;
  const int32_t bytes = (kind == QC_S16) ? 2 : 1;
  const int8_t *image = input;
  int32_t written = 0;
  if ((params->ch_mult < 1) || (layer->output->c != (layer->input->c * params->ch_mult))) {
    return ARM_CMSIS_NN_ARG_ERROR;
  }
  for (int32_t n = 0; n < layer->input->n; ++n) {
    for (int32_t row = 0; row < layer->output->h; ++row) {
      for (int32_t column = 0; column < layer->output->w; ++column) {
        const int32_t x = (column * params->stride.w) - params->padding.w;
        const int32_t y = (row * params->stride.h) - params->padding.h;
        for (int32_t channel = 0; channel < layer->output->c; channel += QC_DEPTHWISE_CHANNELS) {
          const int32_t count = qc_min(QC_DEPTHWISE_CHANNELS, layer->output->c - channel);
          int64_t sums[QC_DEPTHWISE_CHANNELS] = {0};
          qc_depthwise_sums(kind, layer, image, filter, x, y, channel, count, sums);
          for (int32_t i = 0; i < count; ++i) {
            const int32_t code = qc_depthwise_finish(kind, layer, sums[i], channel + i);
            if (kind == QC_S16) {
              ((int16_t *)output)[written + i] = (int16_t)code;
            } else {
              ((int8_t *)output)[written + i] = (int8_t)code;
            }
          }
          written += count;
        }
      }
    }
    image = &image[layer->input->h * layer->input->w * layer->input->c * bytes];
  }
  return ARM_CMSIS_NN_SUCCESS;
}

#endif
