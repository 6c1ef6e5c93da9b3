/* Products of int16 codes. */
#include "arm_nnfunctions.h"
#include "qc_elementwise.h"

arm_cmsis_nn_status arm_elementwise_mul_s16(const int16_t *input_1_vect, const int16_t *input_2_vect,
    int32_t input_1_offset, int32_t input_2_offset, int16_t *output, int32_t out_offset, int32_t out_mult,
    int32_t out_shift, int32_t out_activation_min, int32_t out_activation_max, int32_t block_size) {
  (void)input_1_offset;
  (void)input_2_offset;
  (void)out_offset;
  const qc_mul_params params = {
      .input_offset = 0,
      .other_offset = 0,
      .output_offset = 0,
      .multiplier = out_mult,
      .shift = out_shift,
      .activation = {out_activation_min, out_activation_max},
  };
  for (int32_t i = 0; i < block_size; ++i) {
    output[i] = (int16_t)qc_product(&params, input_1_vect[i], input_2_vect[i]);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
