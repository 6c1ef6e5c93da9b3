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

static volatile uint32_t wraps;

void counter_wrapped(void) { wraps += 1U; }

void counter_start(void) {
  SYST_CSR = 0;
  SYST_RVR = COUNTER_RELOAD;
  SYST_CVR = 0;
  wraps = 0;
  SYST_CSR = 7U; /* processor clock, interrupt, on */
}

uint64_t counter_read(void) {
  uint32_t before;
  uint32_t value;
  do {
    before = wraps;
    value = SYST_CVR;
  } while (before != wraps);
  const uint64_t passed = value == 0U ? 0U : COUNTER_RELOAD - value; /* 0: not yet reloaded */
  const uint64_t ticks = (uint64_t)before * (COUNTER_RELOAD + 1U) + passed;
  return ticks * INSTRUCTIONS_PER_1024_TICKS / 1024U;
}
