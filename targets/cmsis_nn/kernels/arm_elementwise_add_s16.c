/* Sums of int16 codes. */
#include "arm_nnfunctions.h"
#include "qc_elementwise.h"

arm_cmsis_nn_status arm_elementwise_add_s16(const int16_t *input_1_vect, const int16_t *input_2_vect,
    int32_t input_1_offset, int32_t input_1_mult, int32_t input_1_shift, int32_t input_2_offset, int32_t input_2_mult,
    int32_t input_2_shift, int32_t left_shift, int16_t *output, int32_t out_offset, int32_t out_mult, int32_t out_shift,
    int32_t out_activation_min, int32_t out_activation_max, int32_t block_size) {
  (void)input_1_offset;
  (void)input_2_offset;
  (void)out_offset;
  const qc_add_params params = {
      .sign = 1,
      .left_shift = left_shift,
      .input_offset = 0,
      .input_multiplier = input_1_mult,
      .input_shift = input_1_shift,
      .other_offset = 0,
      .other_multiplier = input_2_mult,
      .other_shift = input_2_shift,
      .output_offset = 0,
      .output_multiplier = out_mult,
      .output_shift = out_shift,
      .activation = {out_activation_min, out_activation_max},
  };
  for (int32_t i = 0; i < block_size; ++i) {
    output[i] = (int16_t)qc_sum(&params, input_1_vect[i], input_2_vect[i]);
  }
  return ARM_CMSIS_NN_SUCCESS;
}
