/* Rows of several pieces of memory one behind the other. */
#include <stddef.h>
#include <string.h>
#include "qc_kernels.h"

arm_cmsis_nn_status qc_concat(const void *const *inputs, const int32_t *bytes, int32_t count, int32_t outer,
    void *output) {
  int8_t *to = (int8_t *)output;
  for (int32_t o = 0; o < outer; ++o) {
    for (int32_t i = 0; i < count; ++i) {
      const int8_t *from = (const int8_t *)inputs[i];
      (void)memcpy(to, &from[o * bytes[i]], (size_t)bytes[i]);
      to = &to[bytes[i]];
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
