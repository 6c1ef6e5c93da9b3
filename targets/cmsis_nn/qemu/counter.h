/* Counts instructions: an emulator that takes one nanosecond for each (-icount shift=0) lets the system timer count them. */
#ifndef COUNTER_H
#define COUNTER_H

#include <stdint.h>

void counter_start(void);

/* Instructions since counter_start, to within one tick of the timer (INSTRUCTIONS_PER_1024_TICKS / 1024). */
uint64_t counter_read(void);

/* The timer's interrupt. */
void counter_wrapped(void);

#endif
