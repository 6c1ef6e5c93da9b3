/* Means of int16 codes over the middle of three axes. */
#include "qc_internal.h"
#include "qc_kernels.h"

arm_cmsis_nn_status qc_mean_s16(const int16_t *input, const qc_rescale_params *params, int32_t outer, int32_t count,
    int32_t inner, int16_t *output) {
  const int32_t offsets = (int32_t)((uint32_t)count * (uint32_t)params->input_offset);
  for (int32_t o = 0; o < outer; ++o) {
    for (int32_t i = 0; i < inner; ++i) {
      const int16_t *from = &input[(o * count * inner) + i];
      int32_t sum = offsets;
      for (int32_t k = 0; k < count; ++k) {
        sum = qc_add_wrapping(sum, from[k * inner]);
      }
      const int32_t y = qc_requantize(sum, params->multiplier, params->shift);
      output[(o * inner) + i] = (int16_t)qc_code(y, params->output_offset, params->activation.min, params->activation.max);
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
