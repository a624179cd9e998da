/* What an x86-64 processor and its system run, asked of the processor: __builtin_cpu_supports asks the compiler's run-time
 * library instead, and that of zig says no to everything. For the files of the levels, under __x86_64__ and __GNUC__. */
#ifndef MAST_CPU_H
#define MAST_CPU_H
#include <cpuid.h>

/* Registers that the system saves (Intel SDM 1, 13.3): those of AVX, and of AVX-512. */
#define MAST_AVX_STATE 0x06u
#define MAST_AVX512_STATE 0xE6u

/* Whether all of these are there: bits of leaf 1's ECX and of leaf 7's EBX by their names in cpuid.h, and a state. */
static inline int mast_cpu_runs(unsigned leaf1, unsigned leaf7, unsigned state)
{
    unsigned a, b, c, d, low = 0, high = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1)
        return 0;
    if (state) {
        if (!(c & bit_OSXSAVE))
            return 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & state) != state)
            return 0;
    }
    return !leaf7 || (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7) == leaf7);
}
#endif
