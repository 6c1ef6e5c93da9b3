/* int16 codes to int8 codes of another encoding. */
#include "qc_internal.h"
#include "qc_kernels.h"

arm_cmsis_nn_status qc_requantize_s16_s8(const int16_t *input, const qc_rescale_params *params, int32_t count,
    int8_t *output) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t y = qc_requantize(input[i] + params->input_offset, params->multiplier, params->shift);
    output[i] = (int8_t)qc_code(y, params->output_offset, params->activation.min, params->activation.max);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
