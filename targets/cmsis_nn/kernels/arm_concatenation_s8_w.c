/* Places an input in a concatenation along the outermost dimension. */
#include <stddef.h>
#include <string.h>

#include "arm_nnfunctions.h"

void arm_concatenation_s8_w(const int8_t *input, const uint16_t input_x, const uint16_t input_y,
                            const uint16_t input_z, const uint16_t input_w, int8_t *output, const uint32_t offset_w) {
  const size_t size = (size_t)input_x * input_y * input_z;
  (void)memcpy(&output[size * offset_w], input, size * input_w);
}
