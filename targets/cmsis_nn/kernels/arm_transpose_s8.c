/* Transpositions of 8-bit codes; the dimensions of fewer than four are the first fields, and two are always swapped.
 */
#include "arm_nnfunctions.h"
#include "qc_kernels.h"

arm_cmsis_nn_status arm_transpose_s8(const int8_t *input_data, int8_t *const output_data,
                                     const cmsis_nn_dims *const input_dims, const cmsis_nn_dims *const output_dims,
                                     const cmsis_nn_transpose_params *const transpose_params) {
  static const uint32_t swap[2] = {1, 0};
  const int32_t shape[4] = {input_dims->n, input_dims->h, input_dims->w, input_dims->c};
  const int32_t rank = transpose_params->num_dims;
  const uint32_t *order = (rank == 2) ? swap : transpose_params->permutations;
  int32_t strides[4];
  int32_t stride = 1;
  qc_strided_params params = {.start = 0, .shape = {1, 1, 1, 1, 1, 1}};
  (void)output_dims;
  if ((rank < 1) || (rank > 4)) {
    return ARM_CMSIS_NN_ARG_ERROR;
  }
  for (int32_t axis = rank - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  for (int32_t axis = 0; axis < rank; ++axis) {
    const uint32_t from = (rank == 1) ? 0U : order[axis];
    if (from >= (uint32_t)rank) {
      return ARM_CMSIS_NN_ARG_ERROR;
    }
    params.shape[QC_DIMS - rank + axis] = shape[from];
    params.strides[QC_DIMS - rank + axis] = strides[from];
  }
  return qc_strided_copy(input_data, &params, 1, output_data);
}
