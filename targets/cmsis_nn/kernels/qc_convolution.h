/*
 * Convolutions, fully connected layers and products of matrices: all that differs between them is said in one
 * structure.
 *
 * A few output pixels are computed together. What they read is first gathered into patches of 16 bits, from which the
 * offset and the padding are gone, so that the inner loops run over dense memory and a weight is widened once for all
 * pixels.
 */
#ifndef QC_CONVOLUTION_H
#define QC_CONVOLUTION_H

#include <stddef.h>
#include <string.h>

#include "arm_nn_types.h"
#include "qc_internal.h"

#define QC_PIXELS 4
#define QC_CHANNELS 16 /* output channels that use a patch before it is replaced */
#define QC_DEPTH 256   /* elements of a patch: a sum of as many products of 16 and 8 bits fits 32 */

/*
 * sum = bias + sum of (x + input_offset) * (w + filter_offset) over the taps that lie inside;
 * y = clamp(sum * factor + output_offset). Images are [N, H, W, C], filters [O, KH, KW, C / groups].
 */
typedef struct {
  cmsis_nn_dims input; /* H and W as spread by upscale_bits */
  cmsis_nn_dims output;
  cmsis_nn_tile kernel;
  cmsis_nn_tile stride;
  cmsis_nn_tile padding;
  cmsis_nn_tile dilation;
  cmsis_nn_tile upscale_bits; /* 1: a row or column of zeros (of value) follows each that is read */
  int32_t groups;
  int32_t input_offset;
  int32_t filter_offset;
  int32_t output_offset;
  cmsis_nn_activation activation;
  const int32_t *multiplier;
  const int32_t *shift;
  int32_t factor_step;    /* 1: a factor per output channel, 0: one for all */
  const int32_t *bias;    /* NULL, or 32 bits wide: then sums wrap around and are rescaled as 32 bits */
  const int64_t *bias_64; /* NULL, or 64 bits wide */
  bool wide;              /* sums are rescaled as 64 bits */
} qc_convolution;

/* A fully connected layer is a convolution with a kernel of 1x1 over one row of vectors. */
static inline qc_convolution qc_matrix(int32_t vectors, int32_t depth, int32_t outputs) {
  const qc_convolution layer = {
      .input = {1, 1, vectors, depth},
      .output = {1, 1, vectors, outputs},
      .kernel = {1, 1},
      .stride = {1, 1},
      .dilation = {1, 1},
      .groups = 1,
  };
  return layer;
}

static inline qc_convolution qc_image(const cmsis_nn_conv_params *params,
                                      const cmsis_nn_per_channel_quant_params *factors, const cmsis_nn_dims *input,
                                      const cmsis_nn_dims *filter, const cmsis_nn_dims *output) {
  const qc_convolution layer = {
      .input = *input,
      .output = *output,
      .kernel = {filter->w, filter->h},
      .stride = params->stride,
      .padding = params->padding,
      .dilation = params->dilation,
      .groups = 1,
      .input_offset = params->input_offset,
      .output_offset = params->output_offset,
      .activation = params->activation,
      .multiplier = factors->multiplier,
      .shift = factors->shift,
      .factor_step = 1,
  };
  return layer;
}

/* Where a patch has got to: a tap of the filter and a channel of its group. */
typedef struct {
  int32_t x; /* of tap (0, 0) in the input */
  int32_t y;
  int32_t tap_x;
  int32_t tap_y;
  int32_t channel;
} qc_position;

/* The next elements that lie together: how many, at most `most`, and where they start in an image; -1 for padding. */
static inline int32_t qc_run(const qc_convolution *layer, qc_position *at, int32_t most, int32_t *start) {
  const int32_t depth = layer->input.c / layer->groups;
  const int32_t x = at->x + (at->tap_x * layer->dilation.w);
  const int32_t y = at->y + (at->tap_y * layer->dilation.h);
  const int32_t skipped = (x & layer->upscale_bits.w) | (y & layer->upscale_bits.h);
  const bool inside = (x >= 0) && (x < layer->input.w) && (y >= 0) && (y < layer->input.h) && (skipped == 0);
  int32_t taps = 1;
  *start = -1;
  if (inside) {
    const int32_t width = layer->input.w >> layer->upscale_bits.w;
    const int32_t pixel = ((y >> layer->upscale_bits.h) * width) + (x >> layer->upscale_bits.w);
    *start = (pixel * layer->input.c) + at->channel;
    if ((layer->dilation.w == 1) && (layer->upscale_bits.w == 0) && (layer->groups == 1)) {
      taps = qc_min(layer->kernel.w - at->tap_x, layer->input.w - x); /* the row goes on in memory */
    }
  }
  const int32_t length = qc_min((taps * depth) - at->channel, most);
  at->channel += length;
  while (at->channel >= depth) {
    at->channel -= depth;
    at->tap_x += 1;
  }
  if (at->tap_x == layer->kernel.w) {
    at->tap_x = 0;
    at->tap_y += 1;
  }
  return length;
}

/* Gathers elements `first` to `first + count` of what an output pixel reads of a group. */
static inline void qc_gather_patch(qc_kind kind, const qc_convolution *layer, const void *image, int32_t group,
                                   int32_t pixel, int32_t first, int32_t count, int16_t *patch) {
  const int32_t depth = layer->input.c / layer->groups;
  const int32_t tap = first / depth;
  const int32_t offset = layer->input_offset;
  qc_position at = {
      .x = ((pixel % layer->output.w) * layer->stride.w) - layer->padding.w,
      .y = ((pixel / layer->output.w) * layer->stride.h) - layer->padding.h,
      .tap_x = tap % layer->kernel.w,
      .tap_y = tap / layer->kernel.w,
      .channel = first % depth,
  };
  int32_t done = 0;
  while (done < count) {
    int32_t start;
    const int32_t length = qc_run(layer, &at, count - done, &start);
    int16_t *to = &patch[done];
    if (start < 0) {
      (void)memset(to, 0, (size_t)length * sizeof(*to));
    } else if (kind == QC_S16) {
      const int16_t *from = &((const int16_t *)image)[start + (group * depth)];
      (void)memcpy(to, from, (size_t)length * sizeof(*to));
    } else {
      const int8_t *from = &((const int8_t *)image)[start + (group * depth)];
      for (int32_t i = 0; i < length; ++i) {
        to[i] = (int16_t)(from[i] + offset);
      }
    }
    done += length;
  }
}

static inline int32_t qc_dot(const int16_t *patch, const int8_t *weights, int32_t count) {
  int32_t sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    sum += patch[i] * weights[i];
  }
  return sum;
}

static inline void qc_dot_4(int16_t patches[QC_PIXELS][QC_DEPTH], const int8_t *weights, int32_t count,
                            int32_t sums[QC_PIXELS]) {
  int32_t sum_0 = 0;
  int32_t sum_1 = 0;
  int32_t sum_2 = 0;
  int32_t sum_3 = 0;
  for (int32_t i = 0; i < count; ++i) {
    const int16_t weight = weights[i];
    sum_0 += patches[0][i] * weight;
    sum_1 += patches[1][i] * weight;
    sum_2 += patches[2][i] * weight;
    sum_3 += patches[3][i] * weight;
  }
  sums[0] = sum_0;
  sums[1] = sum_1;
  sums[2] = sum_2;
  sums[3] = sum_3;
}

/* What `count` elements of some patches add to the sums of some channels, whose filters have `size` elements. */
static inline void qc_accumulate(qc_kind kind, int16_t patches[QC_PIXELS][QC_DEPTH], int32_t pixels,
                                 const int8_t *filter, int32_t first, int32_t size, int32_t count, int32_t channels,
                                 int32_t filter_offset, int64_t sums[QC_CHANNELS][QC_PIXELS]) {
  int32_t extra[QC_PIXELS] = {0};
  if (filter_offset != 0) {
    for (int32_t p = 0; p < pixels; ++p) {
      for (int32_t i = 0; i < count; ++i) {
        extra[p] += patches[p][i];
      }
    }
  }
  for (int32_t o = 0; o < channels; ++o) {
    int8_t unpacked[QC_DEPTH];
    const int8_t *weights;
    if (kind == QC_S4) {
      for (int32_t i = 0; i < count; ++i) {
        unpacked[i] = qc_nibble(filter, first + (o * size) + i);
      }
      weights = unpacked;
    } else {
      weights = &filter[first + (o * size)];
    }
    int32_t products[QC_PIXELS];
    if (pixels == 1) {
      products[0] = qc_dot(patches[0], weights, count);
    } else {
      qc_dot_4(patches, weights, count, products);
    }
    for (int32_t p = 0; p < pixels; ++p) {
      sums[o][p] += products[p] + ((int64_t)extra[p] * filter_offset);
    }
  }
}

static inline int32_t qc_finish(const qc_convolution *layer, int64_t sum, int32_t channel) {
  const int32_t factor = channel * layer->factor_step;
  int32_t y;
  if (layer->wide) {
    const int64_t bias = (layer->bias_64 != NULL) ? layer->bias_64[channel] : 0;
    y = qc_requantize_wide(sum + bias, layer->multiplier[factor], layer->shift[factor]);
  } else {
    const int32_t bias = (layer->bias != NULL) ? layer->bias[channel] : 0;
    y = qc_requantize((int32_t)(sum + bias), layer->multiplier[factor], layer->shift[factor]);
  }
  return qc_code(y, layer->output_offset, layer->activation.min, layer->activation.max);
}

/* Pixels `pixel` and up, at most QC_PIXELS, of one image and group. */
static inline void qc_convolve_pixels(qc_kind kind, const qc_convolution *layer, const void *image,
                                      const int8_t *filter, int32_t group, int32_t pixel, int32_t pixels,
                                      void *output, int16_t patches[QC_PIXELS][QC_DEPTH]) {
  const int32_t size = layer->kernel.w * layer->kernel.h * (layer->input.c / layer->groups);
  const int32_t group_end = (group + 1) * (layer->output.c / layer->groups);
  bool gathered = false;
  int32_t channels;
  for (int32_t channel = group * (layer->output.c / layer->groups); channel < group_end; channel += channels) {
    int64_t sums[QC_CHANNELS][QC_PIXELS] = {{0}};
    int32_t count;
    channels = qc_min(QC_CHANNELS, group_end - channel);
    for (int32_t first = 0; first < size; first += count) {
      count = qc_min(QC_DEPTH, size - first);
      for (int32_t p = 0; (p < pixels) && !gathered; ++p) {
        qc_gather_patch(kind, layer, image, group, pixel + p, first, count, patches[p]);
      }
      qc_accumulate(kind, patches, pixels, filter, first + (channel * size), size, count, channels,
                    layer->filter_offset, sums);
    }
    gathered = size <= QC_DEPTH;
    for (int32_t p = 0; p < pixels; ++p) {
      const int32_t start = ((pixel + p) * layer->output.c) + channel;
      for (int32_t o = 0; o < channels; ++o) {
        const int32_t y = qc_finish(layer, sums[o][p], channel + o);
        if (kind == QC_S16) {
          ((int16_t *)output)[start + o] = (int16_t)y;
        } else {
          ((int8_t *)output)[start + o] = (int8_t)y;
        }
      }
    }
  }
}

/* Reads and writes int16_t if `kind` is QC_S16, else int8_t. */
static inline void qc_convolve(qc_kind kind, const qc_convolution *layer, const void *input, const int8_t *filter,
                               void *output) {
  const int32_t bytes = (kind == QC_S16) ? 2 : 1;
  const int32_t rows = layer->input.h >> layer->upscale_bits.h;
  const int32_t columns = layer->input.w >> layer->upscale_bits.w;
  const int32_t count = layer->output.h * layer->output.w;
  const int8_t *image = input;
  int8_t *made = output;
  int16_t patches[QC_PIXELS][QC_DEPTH] = {{0}};
  for (int32_t n = 0; n < layer->input.n; ++n) {
    for (int32_t group = 0; group < layer->groups; ++group) {
      for (int32_t pixel = 0; pixel < count; pixel += QC_PIXELS) {
        const int32_t pixels = qc_min(QC_PIXELS, count - pixel);
        qc_convolve_pixels(kind, layer, image, filter, group, pixel, pixels, made, patches);
      }
    }
    image = &image[rows * columns * layer->input.c * bytes];
    made = &made[count * layer->output.c * bytes];
  }
}

#endif
