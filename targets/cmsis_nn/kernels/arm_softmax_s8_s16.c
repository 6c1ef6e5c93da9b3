/* Softmax of rows of int8 codes, to int16. */
#include "arm_nnfunctions.h"
#include "qc_softmax.h"

void arm_softmax_s8_s16(const int8_t *input, int32_t num_rows, int32_t row_size, int32_t mult, int32_t shift,
    int32_t diff_min, int16_t *output) {
  qc_softmax(true, input, num_rows, row_size, mult, shift, diff_min, output);
}
