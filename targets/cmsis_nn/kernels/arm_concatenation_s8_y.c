/* Places an input in a concatenation along y; x is the innermost one. */
#include <stddef.h>
#include <string.h>

#include "arm_nnfunctions.h"

void arm_concatenation_s8_y(const int8_t *input, const uint16_t input_x, const uint16_t input_y,
                            const uint16_t input_z, const uint16_t input_w, int8_t *output, const uint16_t output_y,
                            const uint32_t offset_y) {
  const size_t count = (size_t)input_z * input_w;
  const size_t size = (size_t)input_x * input_y;
  const size_t stride = (size_t)input_x * output_y;
  int8_t *to = &output[(size_t)offset_y * input_x];
  for (size_t i = 0; i < count; ++i) {
    (void)memcpy(&to[i * stride], &input[i * size], size);
  }
}
