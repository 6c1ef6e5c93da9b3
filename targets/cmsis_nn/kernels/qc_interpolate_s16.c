/* A function of int16 codes as a table of 512 intervals. */
#include "qc_kernels.h"

arm_cmsis_nn_status qc_interpolate_s16(const int16_t *input, const int16_t *table, int32_t count, int16_t *output) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t x = input[i];
    const int32_t interval = 256 + (x >> 7);
    const int32_t base = table[interval];
    const int32_t rise = table[interval + 1] - base;
    output[i] = (int16_t)(base + (((rise * (x & 127)) + 64) >> 7));
  }
  return ARM_CMSIS_NN_SUCCESS;
}
