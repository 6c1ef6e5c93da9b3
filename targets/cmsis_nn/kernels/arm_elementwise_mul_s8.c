/* Products of int8 codes. */
#include "arm_nnfunctions.h"
#include "qc_elementwise.h"

arm_cmsis_nn_status arm_elementwise_mul_s8(const int8_t *input_1_vect, const int8_t *input_2_vect,
    int32_t input_1_offset, int32_t input_2_offset, int8_t *output, int32_t out_offset, int32_t out_mult,
    int32_t out_shift, int32_t out_activation_min, int32_t out_activation_max, int32_t block_size) {
  const qc_mul_params params = {
      .input_offset = input_1_offset,
      .other_offset = input_2_offset,
      .output_offset = out_offset,
      .multiplier = out_mult,
      .shift = out_shift,
      .activation = {out_activation_min, out_activation_max},
  };
  for (int32_t i = 0; i < block_size; ++i) {
    output[i] = (int8_t)qc_product(&params, input_1_vect[i], input_2_vect[i]);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
