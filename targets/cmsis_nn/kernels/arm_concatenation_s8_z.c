/* Places an input in a concatenation along z; x is the innermost one. */
#include <stddef.h>
#include <string.h>

#include "arm_nnfunctions.h"

void arm_concatenation_s8_z(const int8_t *input, const uint16_t input_x, const uint16_t input_y,
                            const uint16_t input_z, const uint16_t input_w, int8_t *output, const uint16_t output_z,
                            const uint32_t offset_z) {
  const size_t count = input_w;
  const size_t size = (size_t)input_x * input_y * input_z;
  const size_t stride = (size_t)input_x * input_y * output_z;
  int8_t *to = &output[(size_t)offset_z * input_x * input_y];
  for (size_t i = 0; i < count; ++i) {
    (void)memcpy(&to[i * stride], &input[i * size], size);
  }
}
