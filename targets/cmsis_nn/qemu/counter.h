/* Counts instructions: an emulator that takes one nanosecond for each (-icount shift=0) lets the system timer count them.
 * Elsewhere it counts time. */
#ifndef COUNTER_H
#define COUNTER_H

#include <stdint.h>

void counter_start(void);

/* Instructions since counter_start, to within one tick of the timer (INSTRUCTIONS_PER_1024_TICKS / 1024). Reading takes some
 * twenty instructions of its own, two ticks when the timer is just starting a period. */
uint64_t counter_read(void);

/* The timer's interrupt, at the end of every period of COUNTER_RELOAD + 1 ticks. */
void counter_wrapped(void);

#endif
