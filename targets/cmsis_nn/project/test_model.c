/* Runs the model on recorded inputs and compares with what the compiler recorded, byte for byte. */
#include <stdio.h>

#include "vectors.h"

$made

int main(void) {
  int32_t differences = 0;
  for (int32_t vector = 0; vector < MODEL_VECTORS; ++vector) {
    const int status = model_run($vector_arguments);
    if (status != 0) {
      printf("step %d refused its arguments\n", status);
      return 1;
    }
$comparisons
  }
  printf("%d vectors, %ld differences\n", MODEL_VECTORS, (long)differences);
  return differences == 0 ? 0 : 1;
}
