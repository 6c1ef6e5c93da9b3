/* The same codes elsewhere. */
#include <stddef.h>
#include <string.h>

#include "arm_nnfunctions.h"

void arm_reshape_s8(const int8_t *input, int8_t *output, const uint32_t total_size) {
  (void)memcpy(output, input, (size_t)total_size);
}
