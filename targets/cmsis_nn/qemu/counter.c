#include "counter.h"

#ifndef INSTRUCTIONS_PER_1024_TICKS
#error "give INSTRUCTIONS_PER_1024_TICKS: 1024 * 1e9 / the board's clock in Hz"
#endif

#ifndef COUNTER_RELOAD
#define COUNTER_RELOAD 0xFFFFFFU
#endif

#define SYST_CSR (*(volatile uint32_t *)0xE000E010U)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014U)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018U)
#define ICSR (*(volatile uint32_t *)0xE000ED04U)

#define ICSR_PENDSTCLR (1U << 25)
#define ICSR_PENDSTSET (1U << 26)

static volatile uint32_t wraps;

void counter_wrapped(void) { wraps += 1U; }

void counter_start(void) {
  SYST_CSR = 0;
  ICSR = ICSR_PENDSTCLR;
  SYST_RVR = COUNTER_RELOAD;
  SYST_CVR = 0;
  wraps = 0;
  SYST_CSR = 7U; /* processor clock, interrupt, on */
}

uint64_t counter_read(void) {
  uint32_t before;
  uint32_t value;
  /* A period starts with 0, then COUNTER_RELOAD, downwards. Its interrupt may come later than its first values: those are
   * waited for, and so is the end of 0, which may show before the interrupt is even pending. */
  do {
    before = wraps;
    value = SYST_CVR;
  } while (value == 0U || (ICSR & ICSR_PENDSTSET) != 0U || before != wraps);
  const uint64_t ticks = (uint64_t)before * (COUNTER_RELOAD + 1U) + (COUNTER_RELOAD + 1U - value);
  return ticks * INSTRUCTIONS_PER_1024_TICKS / 1024U;
}
