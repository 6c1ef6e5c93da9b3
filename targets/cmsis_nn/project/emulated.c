/* Runs the model on the vectors in vectors.bin on an emulated board: compares the results, and counts instructions. */
#include <stdint.h>

#include "counter.h"
#include "model.h"
#include "semihosting.h"

$buffers

static int say(const char *what, uint64_t number) {
  semihosting_write(what);
  semihosting_write_number(number);
  semihosting_write("\n");
  return 0;
}

int main(void) {
  uint32_t vectors = 0;
  uint64_t differences = 0;
  uint64_t instructions = 0;
  const int32_t file = semihosting_open("vectors.bin");
  if (file < 0 || semihosting_read(file, &vectors, sizeof(vectors)) != 0) {
    semihosting_write("vectors.bin cannot be read\n");
    return 2;
  }
  for (uint32_t vector = 0; vector < vectors; ++vector) {
    int32_t missing = 0;
$reads
    if (missing != 0) {
      semihosting_write("vectors.bin ends early\n");
      return 2;
    }
    counter_start();
    const int status = model_run($buffer_arguments);
    instructions = counter_read();
    if (status != 0) {
      (void)say("refused by step ", (uint64_t)status);
      return 3;
    }
$emulated_comparisons
  }
  (void)say("vectors ", vectors);
  (void)say("differences ", differences);
  (void)say("instructions ", instructions);
  return differences == 0U ? 0 : 1;
}
