/*
 * Kernels for what CMSIS-NN has none for: other encodings, broadcasts, tables, reductions and the movement of data. They
 * are linked beside the library, or beside kernels with its interface; each is in a file of its own name.
 *
 * An output must not overlap an input, but where it has the same shape and type in elementwise kernels and tables.
 * Factors are multiplier / 2^31 * 2^shift; they are applied to 32 bits and rounded twice, as the library does by default.
 */
#ifndef QC_KERNELS_H
#define QC_KERNELS_H

#include "arm_nn_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Dimensions of whatever is walked over: outermost first, sizes of 1 in front where there are fewer. */
#define QC_DIMS 6

/* y = clamp((x + input_offset) * factor + output_offset). */
typedef struct {
  int32_t input_offset;
  int32_t output_offset;
  int32_t multiplier;
  int32_t shift;
  cmsis_nn_activation activation;
} qc_rescale_params;

/* How two operands are walked: their strides in elements, 0 where an operand is repeated. The output is dense. */
typedef struct {
  int32_t shape[QC_DIMS];
  int32_t strides[QC_DIMS];
  int32_t other_strides[QC_DIMS];
} qc_broadcast;

/* y = clamp((((a + input_offset) << left_shift) * factor + sign * (((b + other_offset) << left_shift) * other factor))
 *           * output factor + output_offset); sign is 1 or -1. */
typedef struct {
  int32_t sign;
  int32_t left_shift;
  int32_t input_offset;
  int32_t input_multiplier;
  int32_t input_shift;
  int32_t other_offset;
  int32_t other_multiplier;
  int32_t other_shift;
  int32_t output_offset;
  int32_t output_multiplier;
  int32_t output_shift;
  cmsis_nn_activation activation;
} qc_add_params;

/* y = clamp((a + input_offset) * (b + other_offset) * factor + output_offset). */
typedef struct {
  int32_t input_offset;
  int32_t other_offset;
  int32_t output_offset;
  int32_t multiplier;
  int32_t shift;
  cmsis_nn_activation activation;
} qc_mul_params;

/* y[i, j, ...] = x[start + i * strides[0] + j * strides[1] + ...], in elements; strides may be 0 or negative. */
typedef struct {
  int32_t start;
  int32_t shape[QC_DIMS];
  int32_t strides[QC_DIMS];
} qc_strided_params;

/* Elements of `value` before and after those of a tensor of `shape`. */
typedef struct {
  int32_t shape[QC_DIMS];
  int32_t before[QC_DIMS];
  int32_t after[QC_DIMS];
  int32_t value;
} qc_pad_params;

/* One axis of a resized image, an entry per output: between input `lower` (1024 - weight) and input `upper` (weight). */
typedef struct {
  const int32_t *lower;
  const int32_t *upper;
  const int32_t *weight;
} qc_resize_axis;

/* y = table[x + 128]; 256 entries. */
arm_cmsis_nn_status qc_lookup_s8(const int8_t *input, const int8_t *table, int32_t count, int8_t *output);
arm_cmsis_nn_status qc_lookup_s8_s16(const int8_t *input, const int16_t *table, int32_t count, int16_t *output);

/* Softmax of rows of any length below 4,096, to 1/256 less 128; the library's is for rows of less than 512. */
void qc_softmax_s8(const int8_t *input, int32_t num_rows, int32_t row_size, int32_t mult, int32_t shift, int32_t diff_min,
    int8_t *output);

/* y = b + (((table[i + 1] - b) * (x & 127) + 64) >> 7) with i = 256 + (x >> 7) and b = table[i]; 513 entries. */
arm_cmsis_nn_status qc_interpolate_s16(const int16_t *input, const int16_t *table, int32_t count, int16_t *output);

/* The same numbers in another encoding. */
arm_cmsis_nn_status qc_requantize_s8_s8(const int8_t *input, const qc_rescale_params *params, int32_t count,
    int8_t *output);
arm_cmsis_nn_status qc_requantize_s8_s16(const int8_t *input, const qc_rescale_params *params, int32_t count,
    int16_t *output);
arm_cmsis_nn_status qc_requantize_s16_s8(const int16_t *input, const qc_rescale_params *params, int32_t count,
    int8_t *output);
arm_cmsis_nn_status qc_requantize_s16_s16(const int16_t *input, const qc_rescale_params *params, int32_t count,
    int16_t *output);

/* Sums and differences. */
arm_cmsis_nn_status qc_add_s8(const int8_t *input, const int8_t *other, const qc_add_params *params,
    const qc_broadcast *broadcast, int8_t *output);
arm_cmsis_nn_status qc_add_s16(const int16_t *input, const int16_t *other, const qc_add_params *params,
    const qc_broadcast *broadcast, int16_t *output);

/* Products. */
arm_cmsis_nn_status qc_mul_s8(const int8_t *input, const int8_t *other, const qc_mul_params *params,
    const qc_broadcast *broadcast, int8_t *output);
arm_cmsis_nn_status qc_mul_s16(const int16_t *input, const int16_t *other, const qc_mul_params *params,
    const qc_broadcast *broadcast, int16_t *output);

/* The larger codes, or the smaller ones. */
arm_cmsis_nn_status qc_extremum_s8(const int8_t *input, const int8_t *other, bool largest,
    const qc_broadcast *broadcast, int8_t *output);
arm_cmsis_nn_status qc_extremum_s16(const int16_t *input, const int16_t *other, bool largest,
    const qc_broadcast *broadcast, int16_t *output);

/* Means over the middle of [outer, count, inner]: the sums of x + input_offset, rescaled (1 / count is in the factor). */
arm_cmsis_nn_status qc_mean_s8(const int8_t *input, const qc_rescale_params *params, int32_t outer, int32_t count,
    int32_t inner, int8_t *output);
arm_cmsis_nn_status qc_mean_s16(const int16_t *input, const qc_rescale_params *params, int32_t outer, int32_t count,
    int32_t inner, int16_t *output);

/* The index of the largest code along the middle of [outer, count, inner]; of equal ones the first, or the last. */
arm_cmsis_nn_status qc_argmax_s8(const int8_t *input, bool last, int32_t outer, int32_t count, int32_t inner,
    int32_t *output);
arm_cmsis_nn_status qc_argmax_s16(const int16_t *input, bool last, int32_t outer, int32_t count, int32_t inner,
    int32_t *output);

/* Images of other sizes; rows and columns are interpolated in integers, sums of products rounded half up. */
arm_cmsis_nn_status qc_resize_s8(const int8_t *input, const cmsis_nn_dims *input_dims, const qc_resize_axis *rows,
    const qc_resize_axis *columns, const cmsis_nn_dims *output_dims, int8_t *output);
arm_cmsis_nn_status qc_resize_s16(const int16_t *input, const cmsis_nn_dims *input_dims, const qc_resize_axis *rows,
    const qc_resize_axis *columns, const cmsis_nn_dims *output_dims, int16_t *output);

/* Slices, transpositions, expansions and flips of elements of 1, 2 or 4 bytes. */
arm_cmsis_nn_status qc_strided_copy(const void *input, const qc_strided_params *params, int32_t element_bytes,
    void *output);

/* output[o, i] = input[o, indices[i]], in pieces of `inner_bytes`; `size` is the input's axis. */
arm_cmsis_nn_status qc_gather(const void *input, int32_t outer, int32_t size, int32_t inner_bytes,
    const int32_t *indices, int32_t count, void *output);

/* Row by row `bytes[i]` of each input i. */
arm_cmsis_nn_status qc_concat(const void *const *inputs, const int32_t *bytes, int32_t count, int32_t outer,
    void *output);

/* Padding of elements of 8 and 16 bits. */
arm_cmsis_nn_status qc_pad_8(const int8_t *input, const qc_pad_params *params, int8_t *output);
arm_cmsis_nn_status qc_pad_16(const int16_t *input, const qc_pad_params *params, int16_t *output);

/* Matrices with a factor per output: of int4 codes packed as the library does, and of int8 codes times int16 vectors. */
arm_cmsis_nn_status qc_fully_connected_per_channel_s4(const cmsis_nn_context *ctx, const cmsis_nn_fc_params *fc_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int8_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int32_t *bias_data, const cmsis_nn_dims *output_dims, int8_t *output_data);
arm_cmsis_nn_status qc_fully_connected_per_channel_s16(const cmsis_nn_context *ctx, const cmsis_nn_fc_params *fc_params,
    const cmsis_nn_per_channel_quant_params *quant_params, const cmsis_nn_dims *input_dims, const int16_t *input_data,
    const cmsis_nn_dims *filter_dims, const int8_t *filter_data, const cmsis_nn_dims *bias_dims,
    const int64_t *bias_data, const cmsis_nn_dims *output_dims, int16_t *output_data);

#ifdef __cplusplus
}
#endif

#endif
