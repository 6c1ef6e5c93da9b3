/* The index of the largest of int8 codes along the middle of three axes. */
#include "qc_kernels.h"

arm_cmsis_nn_status qc_argmax_s8(const int8_t *input, bool last, int32_t outer, int32_t count, int32_t inner,
    int32_t *output) {
  for (int32_t o = 0; o < outer; ++o) {
    for (int32_t i = 0; i < inner; ++i) {
      const int8_t *from = &input[(o * count * inner) + i];
      int32_t best = 0;
      for (int32_t k = 1; k < count; ++k) {
        const int8_t code = from[k * inner];
        const int8_t most = from[best * inner];
        if ((code > most) || (last && (code == most))) {
          best = k;
        }
      }
      output[(o * inner) + i] = best;
    }
  }
  return ARM_CMSIS_NN_SUCCESS;
}
