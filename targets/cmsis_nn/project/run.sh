#!/bin/sh
# Builds the model for an emulated $core and runs it on vectors.bin. Needs arm-none-eabi-gcc and qemu-system-arm.
# With CMSIS_NN_PATH set, CMSIS-NN's kernels are linked instead of the portable ones.
set -eu
cd "$$(dirname "$$0")/.."
if [ -n "$${CMSIS_NN_PATH:-}" ]; then
  kernels="$$(find "$$CMSIS_NN_PATH/Source" -name '*.c' ! -name '*_f16.c' ! -name '*_f32.c' ! -name '*_flt.c' ! -path '*/Bindings/*')"
  include="-I$$CMSIS_NN_PATH/Include"
else
  kernels="$portable"
  include="-Ikernels/portable"
fi
mkdir -p build
# shellcheck disable=SC2086
arm-none-eabi-gcc $flags $${CFLAGS:--O3} -std=c99 -ffunction-sections -fdata-sections $definitions \
  -I. -Ikernels -Iqemu $$include model.c model_data.c $own $$kernels qemu/main.c qemu/startup.c qemu/semihosting.c qemu/counter.c \
  -nostartfiles --specs=nosys.specs -Wl,--gc-sections -Tqemu/$linker_script -o build/model.elf
arm-none-eabi-size build/model.elf
cd qemu
exec qemu-system-arm -M $machine -display none -serial null -monitor none -icount shift=0 \
  -semihosting-config enable=on,target=native -kernel ../build/model.elf
