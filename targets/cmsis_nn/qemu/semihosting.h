/* What a program on an emulated board says to, and reads from, the machine that emulates it (Arm semihosting). */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

void semihosting_write(const char *text);
void semihosting_write_number(uint64_t number);
void semihosting_write_hex(uint32_t number); /* eight digits */

/* A file of the emulating machine, opened for reading; negative when there is none. */
int32_t semihosting_open(const char *name);

/* Reads exactly `size` bytes. Returns 0 if there were as many, otherwise how many are missing. */
int32_t semihosting_read(int32_t file, void *buffer, size_t size);

void semihosting_close(int32_t file);

/* Reads a file from its beginning, `size` bytes at most. Returns how many it read; negative when there is no such file. */
int32_t semihosting_read_file(const char *name, void *buffer, size_t size);

/* Ends the emulation with an exit code. */
__attribute__((noreturn)) void semihosting_exit(uint32_t code);

#endif
