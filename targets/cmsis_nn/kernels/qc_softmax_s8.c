/* Softmax of rows of int8 codes, to int8. */
#include "qc_kernels.h"
#include "qc_softmax.h"

void qc_softmax_s8(const int8_t *input, int32_t num_rows, int32_t row_size, int32_t mult, int32_t shift,
    int32_t diff_min, int8_t *output) {
  qc_softmax(false, input, num_rows, row_size, mult, shift, diff_min, output);
}
