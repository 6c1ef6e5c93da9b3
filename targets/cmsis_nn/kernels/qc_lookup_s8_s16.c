/* A function of int8 codes as a table of int16 codes. */
#include "qc_kernels.h"

arm_cmsis_nn_status qc_lookup_s8_s16(const int8_t *input, const int16_t *table, int32_t count, int16_t *output) {
  for (int32_t i = 0; i < count; ++i) {
    output[i] = table[input[i] + 128];
  }
  return ARM_CMSIS_NN_SUCCESS;
}
