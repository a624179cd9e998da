/* The recorded episode on a bare Cortex-M4F: every action with the bits of q and memory, the instructions of a step. */
#include <stddef.h>
#include <stdint.h>

#include "policy.h"
#include "trace.h"

extern uint32_t stack_top;
int main(void);
void reset(void);

__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*reset)(void);
} vectors = {&stack_top, reset};

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

static void print_text(const char *text) { semihost(WRITE, (uintptr_t)text); }

static void print_number(int32_t number)
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

static void print_bits(const float *values, int size)
{
    for (int i = 0; i < size; i++) {
        const union {
            float value;
            uint32_t bits;
        } word = {values[i]};
        char text[10] = " ";
        for (int digit = 0; digit < 8; digit++)
            text[1 + digit] = "0123456789abcdef"[word.bits >> (28 - 4 * digit) & 15];
        text[9] = 0;
        print_text(text);
    }
}

/* SysTick counts down at 25 MHz of virtual time; an instruction takes 2^10 ns: 25.6 ticks. */
#define SYSTICK ((volatile uint32_t *)0xe000e010)
#define RELOAD 0xffffffu

static uint32_t instructions_between(uint32_t before, uint32_t after)
{
    return ((before - after) & RELOAD) * 10u / 256u;
}

int main(void)
{
    uint64_t total = 0;
    uint32_t failures = 0;
    policy_state state;
    policy_reset(&state);
    SYSTICK[1] = RELOAD;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
    const uint32_t idle = SYSTICK[2], overhead = instructions_between(idle, SYSTICK[2]);
    for (int t = 0; t < TRACE_STEPS; t++) {
        state.last_action = trace_last_action[t];
        const uint32_t before = SYSTICK[2];
        const int action = policy_act(&state, trace_obs[t], trace_avail[t]);
        total += instructions_between(before, SYSTICK[2]) - overhead;
        failures += action != trace_action[t];
        print_number(action);
        print_bits(state.q, POLICY_ACTIONS);
        print_bits(state.hidden, POLICY_HIDDEN);
        print_text("\n");
    }
    print_text("instructions per step: ");
    print_number((int32_t)(total / TRACE_STEPS));
    print_text(failures ? "\nother actions than the runtime\n" : "\nthe actions of the runtime\n");
    semihost(EXIT, failures ? EXIT_FAILURE_CODE : EXIT_SUCCESS_CODE);
    return 0;
}

/* The floating-point unit is off until it is asked for. */
void reset(void)
{
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb");
    main();
    for (;;) {
    }
}
