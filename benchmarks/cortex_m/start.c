/* What a program needs on a bare Cortex-M under QEMU: start, exit, text to the debugger, a count of instructions. */
#include "start.h"

#include <stddef.h>

extern uint32_t stack_top, bss_start, bss_end;
int main(void);
void reset(void);
void tick(void);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int value, size_t size);

/* Exception 15 is SysTick; no other one is taken. */
__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*reset)(void);
    void (*others[13])(void);
    void (*tick)(void);
} vectors = {&stack_top, reset, {0}, tick};

enum { WRITE = 0x04, EXIT = 0x18, EXIT_SUCCESS_CODE = 0x20026, EXIT_FAILURE_CODE = 0x20023 };

/* The debugger's (QEMU's) services, ARM semihosting. */
static void semihost(uint32_t operation, uintptr_t argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

/* What a freestanding compiler may call. */
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((volatile char *)to)[i] = (char)value;
    return to;
}

void print_text(const char *text) { semihost(WRITE, (uintptr_t)text); }

void print_number(int32_t number)
{
    char text[16], *at = text + sizeof text - 1;
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    *at = 0;
    do
        *--at = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0)
        *--at = '-';
    print_text(at);
}

void print_word(uint32_t bits)
{
    char text[10] = " ";
    for (int digit = 0; digit < 8; digit++)
        text[1 + digit] = "0123456789abcdef"[bits >> (28 - 4 * digit) & 15];
    text[9] = 0;
    print_text(text);
}

/* SysTick counts down from 2^24 - 1 and then calls tick: together they count on. An instruction takes 2^10 ns. */
#define SYSTICK ((volatile uint32_t *)0xe000e010)
#define TICK_PENDING (*(volatile uint32_t *)0xe000ed04 & 1u << 26)
#define RELOAD 0xffffffu

static volatile uint32_t wraps;

void tick(void) { wraps++; }

uint64_t ticks(void)
{
    uint32_t before, left;
    do {
        before = wraps;
        left = SYSTICK[2];
    } while (TICK_PENDING || before != wraps);
    return ((uint64_t)before << 24) + (RELOAD - left);
}

uint32_t instructions(uint64_t elapsed) { return (uint32_t)(elapsed * 1000u / (1024u * MHZ)); }

void reset(void)
{
    for (uint32_t *at = &bss_start; at < &bss_end; at++)
        *at = 0;
#ifdef FPU
    /* It is off until it is asked for. */
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb");
#endif
    SYSTICK[1] = RELOAD;
    SYSTICK[2] = 0;
    SYSTICK[0] = 7;
    semihost(EXIT, main() ? EXIT_FAILURE_CODE : EXIT_SUCCESS_CODE);
    for (;;) {
    }
}
