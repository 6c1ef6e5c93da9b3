/* Start of a program on an emulated Cortex-M board: vectors, memory, floating point and vector units, faults. */
#include <stdint.h>

#include "counter.h"
#include "semihosting.h"

extern uint32_t stack_top[];
extern uint32_t bss_begin[];
extern uint32_t bss_end[];

extern int main(void);
void reset(void);
static void fault(void);

typedef void (*handler)(void);

__attribute__((section(".vectors"), used)) static const handler vectors[16] = {
    (handler)(uintptr_t)stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, counter_wrapped,
};

static void at(uint32_t address, uint32_t value) { *(volatile uint32_t *)(uintptr_t)address = value; }

static uint32_t of(uint32_t address) { return *(const volatile uint32_t *)(uintptr_t)address; }

void reset(void) {
  /* .data needs no copying: the emulator loads every section to the address where it is used. */
  for (uint32_t *word = bss_begin; word < bss_end; ++word) {
    *word = 0;
  }
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  at(0xE000ED88U, of(0xE000ED88U) | (0xFU << 20)); /* CPACR: the first such instruction would be a fault otherwise */
  __asm__ volatile("dsb\n\tisb");
#endif
  semihosting_exit((uint32_t)main());
}

static void fault(void) {
  uint32_t *frame;
  __asm__ volatile("mrs %0, msp" : "=r"(frame));
  semihosting_write("fault: CFSR 0x");
  semihosting_write_hex(of(0xE000ED28U));
  semihosting_write(", address 0x");
  semihosting_write_hex(of(0xE000ED38U));
  semihosting_write(", near 0x");
  semihosting_write_hex((uint32_t)(uintptr_t)frame);
  semihosting_write("\n");
  semihosting_exit(99);
}
