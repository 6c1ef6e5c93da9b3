#include "semihosting.h"

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };

static uint32_t request(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void semihosting_write(const char *text) { (void)request(SYS_WRITE0, text); }

void semihosting_write_number(uint64_t number) {
  char digits[21];
  size_t place = sizeof(digits) - 1U;
  digits[place] = '\0';
  do {
    place -= 1U;
    digits[place] = (char)('0' + (char)(number % 10U));
    number /= 10U;
  } while (number != 0U);
  semihosting_write(&digits[place]);
}

void semihosting_write_hex(uint32_t number) {
  char digits[9];
  for (uint32_t place = 0; place < 8U; ++place) {
    digits[place] = "0123456789abcdef"[(number >> (28U - 4U * place)) & 15U];
  }
  digits[8] = '\0';
  semihosting_write(digits);
}

int32_t semihosting_open(const char *name) {
  uint32_t length = 0;
  while (name[length] != '\0') {
    length += 1U;
  }
  const struct { const char *name; uint32_t mode; uint32_t length; } argument = {name, 1U /* rb */, length};
  return (int32_t)request(SYS_OPEN, &argument);
}

int32_t semihosting_read(int32_t file, void *buffer, size_t size) {
  const struct { int32_t file; void *buffer; size_t size; } argument = {file, buffer, size};
  return (int32_t)request(SYS_READ, &argument);
}

void semihosting_close(int32_t file) { (void)request(SYS_CLOSE, &file); }

int32_t semihosting_read_file(const char *name, void *buffer, size_t size) {
  const int32_t file = semihosting_open(name);
  if (file < 0) {
    return file;
  }
  const int32_t missing = semihosting_read(file, buffer, size);
  semihosting_close(file);
  return (int32_t)size - missing;
}

void semihosting_exit(uint32_t code) {
  const struct { uint32_t reason; uint32_t code; } argument = {0x20026U /* the application ended */, code};
  (void)request(SYS_EXIT_EXTENDED, &argument);
  for (;;) {
  }
}
