/* The recorded episode on a bare Cortex-M: every action with the bits of q and memory, instructions and stack of a step. */
#include "start.h"

#include "policy.h"
#include "policy_trace.h"

#if !defined(POLICY_FIXED_POINT) || defined(POLICY_CONTINUOUS)
static uint32_t float_bits(float value)
{
    const union {
        float value;
        uint32_t bits;
    } word = {value};
    return word.bits;
}
#endif
#ifdef POLICY_FIXED_POINT
static uint32_t bits_of(int32_t value) { return (uint32_t)value; }
#else
static uint32_t bits_of(float value) { return float_bits(value); }
#endif

/* Words below the stack are painted before a step; those that are not as they were after it were used. */
enum { PAINTED = 2048, PAINT = 0x5a5a5a5a };

static uint32_t *painted_from(void) { return (uint32_t *)((uintptr_t)__builtin_frame_address(0) - 256u) - PAINTED; }

__attribute__((noinline)) static void paint(uint32_t *from)
{
    for (volatile uint32_t *at = from; at < from + PAINTED; at++)
        *at = PAINT;
}

__attribute__((noinline)) static uint32_t unused(const uint32_t *from)
{
    uint32_t count = 0;
    while (count < PAINTED && ((const volatile uint32_t *)from)[count] == PAINT)
        count++;
    return 4u * count;
}

#ifdef INTEGERS
typedef int16_t component;
#define OBS policy_trace_obs_i16
#define ACT policy_act_i16
#else
typedef float component;
#define OBS policy_trace_obs
#define ACT policy_act
#endif
#ifdef POLICY_CONTINUOUS
static component action_taken[POLICY_ACTIONS];
#endif

/* A decision: an action, or 0 where it has components; below 0 it is a refusal. */
__attribute__((noinline)) static int decide(policy_state *state, int t)
{
#ifdef POLICY_CONTINUOUS
    return ACT(state, OBS[t], action_taken);
#else
    return ACT(state, OBS[t], policy_trace_avail[t]);
#endif
}

/* Bytes of stack below this function's frame that a decision takes. */
__attribute__((noinline)) static uint32_t stack_of_a_step(void)
{
    policy_state state;
    uintptr_t here;
    policy_reset(&state);
    uint32_t *const from = painted_from();
    paint(from);
    __asm__ volatile("mov %0, sp" : "=r"(here));
    decide(&state, 0);
    return (uint32_t)(here - (uintptr_t)from) - unused(from);
}

static void print_figure(const char *name, uint32_t value)
{
    print_text(name);
    print_number((int32_t)value);
    print_text("\n");
}

static void executed(policy_state *state, int t)
{
#ifdef POLICY_CONTINUOUS
    for (int k = 0; k < POLICY_ACTIONS; k++)
        state->last_action[k] = policy_trace_last_action[t][k];
#else
    policy_executed(state, policy_trace_last_action[t]);
#endif
}

#ifdef POLICY_CONTINUOUS
static float in_units(int k)
{
#ifdef INTEGERS
    const float low = policy_low[k], high = policy_high[k];
    return 0.5f * (low + high) + (float)action_taken[k] * (0.5f * (high - low) / 32768.0f);
#else
    return action_taken[k];
#endif
}
#endif

/* Was the runtime's action taken? */
static int as_recorded(int action, int t)
{
#ifdef POLICY_CONTINUOUS
    for (int k = 0; k < POLICY_ACTIONS; k++) {
        const float off = in_units(k) - policy_trace_action[t][k], most = policy_trace_tolerance[k];
        if (action != 0 || !(off <= most && -off <= most))
            return 0;
    }
    return 1;
#else
    return action == policy_trace_action[t];
#endif
}

static void print_bits(int action, const policy_state *state)
{
    print_number(action);
#ifdef POLICY_CONTINUOUS
    for (int k = 0; k < POLICY_ACTIONS; k++)
        print_word(float_bits(in_units(k)));
#endif
    for (int a = 0; a < POLICY_ACTIONS; a++)
        print_word(bits_of(state->q[a]));
#ifdef POLICY_HIDDEN
    for (int i = 0; i < POLICY_HIDDEN; i++)
        print_word(bits_of(state->hidden[i]));
#endif
    print_text("\n");
}

int main(void)
{
    uint64_t total = 0;
    uint32_t failures = 0;
    static policy_state state;
    policy_reset(&state);
    const uint64_t idle = ticks(), overhead = ticks() - idle;
    for (int t = 0; t < POLICY_TRACE_STEPS; t++) {
        executed(&state, t);
        const uint64_t before = ticks();
        const int action = decide(&state, t);
        total += ticks() - before - overhead;
        failures += !as_recorded(action, t);
        print_bits(action, &state);
    }
    print_figure("instructions per step: ", instructions(total / POLICY_TRACE_STEPS));
    print_figure("bytes of stack: ", stack_of_a_step());
    print_figure("bytes of state: ", sizeof state);
    print_text(failures ? "other actions than the runtime\n" : "the actions of the runtime\n");
    return failures != 0;
}
