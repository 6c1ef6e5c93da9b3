/* Pieces of memory at given indices along an axis. */
#include <stddef.h>
#include <string.h>
#include "qc_kernels.h"

arm_cmsis_nn_status qc_gather(const void *input, int32_t outer, int32_t size, int32_t inner_bytes,
    const int32_t *indices, int32_t count, void *output) {
  const int8_t *from = (const int8_t *)input;
  int8_t *to = (int8_t *)output;
  for (int32_t o = 0; o < outer; ++o) {
    for (int32_t i = 0; i < count; ++i) {
      (void)memcpy(to, &from[indices[i] * inner_bytes], (size_t)inner_bytes);
      to = &to[inner_bytes];
    }
    from = &from[size * inner_bytes];
  }
  return ARM_CMSIS_NN_SUCCESS;
}
