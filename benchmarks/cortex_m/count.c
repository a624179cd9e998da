/* The counter of instructions on a loop of six million, which SysTick's 24 bits do not hold: `make run MAIN=count.c`. */
#include "start.h"

int main(void)
{
    const uint64_t before = ticks();
    uint32_t left = 3000000;
    __asm__ volatile(".syntax unified\n1:\n\tsubs %0, %0, #1\n\tbne 1b" : "+l"(left) : : "cc");
    const uint32_t counted = instructions(ticks() - before);
    print_number((int32_t)counted);
    print_text(" instructions\n");
    return counted < 6000000u || counted > 6001000u;
}
