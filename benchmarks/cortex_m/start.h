/* See start.c. */
#ifndef START_H
#define START_H

#include <stdint.h>

void print_text(const char *text);
void print_number(int32_t number);
void print_word(uint32_t bits); /* a space and eight hexadecimal digits */
uint64_t ticks(void);
uint32_t instructions(uint64_t elapsed); /* between two counts of ticks */

#endif
