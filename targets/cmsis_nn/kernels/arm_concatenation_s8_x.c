/* Places an input in a concatenation along the innermost dimension; x is the innermost one. */
#include <stddef.h>
#include <string.h>

#include "arm_nnfunctions.h"

void arm_concatenation_s8_x(const int8_t *input, const uint16_t input_x, const uint16_t input_y,
                            const uint16_t input_z, const uint16_t input_w, int8_t *output, const uint16_t output_x,
                            const uint32_t offset_x) {
  const size_t count = (size_t)input_y * input_z * input_w;
  const size_t size = input_x;
  const size_t stride = output_x;
  int8_t *to = &output[offset_x];
  for (size_t i = 0; i < count; ++i) {
    (void)memcpy(&to[i * stride], &input[i * size], size);
  }
}
