/* Start of a program on an emulated Cortex-M board: vectors, memory, floating point and vector units, faults. */
#include <stdint.h>

#include "counter.h"
#include "semihosting.h"

#define SFSR (*(const volatile uint32_t *)0xE000EDE4U)
#define CCR (*(volatile uint32_t *)0xE000ED14U)
#define CFSR (*(const volatile uint32_t *)0xE000ED28U)
#define MMFAR (*(const volatile uint32_t *)0xE000ED34U)
#define BFAR (*(const volatile uint32_t *)0xE000ED38U)
#define CPACR (*(volatile uint32_t *)0xE000ED88U)

#define CCR_UNALIGN_TRP (1U << 3)
#define CFSR_MMARVALID (1U << 7)
#define CFSR_BFARVALID (1U << 15)
#define CPACR_FP_AND_MVE (0xFU << 20)

/* From the linker script. */
extern const uint32_t data_load[];
extern uint32_t data_begin[];
extern uint32_t data_end[];
extern uint32_t bss_begin[];
extern uint32_t bss_end[];
extern uint32_t stack_top[];

extern int main(void);
void reset(void);
static void fault(void);

typedef void (*handler)(void);

__attribute__((section(".vectors"), used)) static const struct {
  const uint32_t *stack;
  handler handlers[15];
} vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, counter_wrapped},
};

/* A function of its own: the compiler may save registers of, or use, units that are off until `reset` turns them on. */
__attribute__((noinline, noreturn)) static void start(void) {
  const uint32_t *load = data_load;
  for (uint32_t *word = data_begin; word < data_end; ++word) {
    *word = *load++;
  }
  for (uint32_t *word = bss_begin; word < bss_end; ++word) {
    *word = 0;
  }
  semihosting_exit((uint32_t)main());
}

void reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  CPACR |= CPACR_FP_AND_MVE; /* without it, the first of their instructions is a fault */
  __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
#if defined(__ARM_ARCH_6M__)
  CCR |= CCR_UNALIGN_TRP; /* the M3 that runs this code reads unaligned words; an M0 or M0+ does not */
#endif
  start();
}

static void write_register(const char *name, uint32_t value) {
  semihosting_write(name);
  semihosting_write_hex(value);
}

/* `frame` is what the core saved: r0 to r3, r12, lr, pc, status. */
__attribute__((used)) static void report_fault(const uint32_t *frame) {
  const uint32_t status = CFSR;
  write_register("fault: PC 0x", frame[6]);
  write_register(", LR 0x", frame[5]);
  write_register(", CFSR 0x", status);
#if defined(__ARM_FEATURE_CMSE)
  write_register(", SFSR 0x", SFSR);
#endif
  if ((status & CFSR_BFARVALID) != 0U) {
    write_register(", address 0x", BFAR);
  } else if ((status & CFSR_MMARVALID) != 0U) {
    write_register(", address 0x", MMFAR);
  }
  semihosting_write("\n");
  semihosting_exit(99);
}

/* Without a prologue, which would move the stack pointer away from the frame. */
__attribute__((naked)) static void fault(void) { __asm__ volatile("mrs r0, msp\n\tbl report_fault"); }
