/* Images of int16 codes in other sizes. */
#include "qc_kernels.h"

arm_cmsis_nn_status qc_resize_s16(const int16_t *input, const cmsis_nn_dims *input_dims, const qc_resize_axis *rows,
    const qc_resize_axis *columns, const cmsis_nn_dims *output_dims, int16_t *output) {
  const int32_t depth = input_dims->c;
  const int32_t row_size = input_dims->w * depth;
  int16_t *to = output;
  for (int32_t n = 0; n < output_dims->n; ++n) {
    const int16_t *image = &input[n * input_dims->h * row_size];
    for (int32_t y = 0; y < output_dims->h; ++y) {
      const int16_t *upper_row = &image[rows->lower[y] * row_size];
      const int16_t *lower_row = &image[rows->upper[y] * row_size];
      const int32_t down = rows->weight[y];
      for (int32_t x = 0; x < output_dims->w; ++x) {
        const int32_t left = columns->lower[x] * depth;
        const int32_t right = columns->upper[x] * depth;
        const int32_t along = columns->weight[x];
        for (int32_t c = 0; c < depth; ++c) {
          const int32_t above = (upper_row[left + c] * (1024 - along)) + (upper_row[right + c] * along);
          const int32_t below = (lower_row[left + c] * (1024 - along)) + (lower_row[right + c] * along);
          const int64_t sum = ((int64_t)above * (1024 - down)) + ((int64_t)below * down);
          to[c] = (int16_t)((sum + (1 << 19)) >> 20);
        }
        to = &to[depth];
      }
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
