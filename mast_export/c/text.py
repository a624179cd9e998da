"""The fixed parts of a policy in C (mast_export.c.source fills them in): C99, scalar, no libc.

Names in capitals between @ signs are replaced.
"""

HEADER = """\
/* The policy of @AGENT@. Made by mast export; docs/c.md of mast-marl describes it.
 *
 * @SUMMARY@
 * Constant tables @TABLES@ bytes, a state @STATE@ bytes, @STACK@ bytes of local arrays in policy_act.
 */
#ifndef POLICY_H
#define POLICY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define POLICY_OBS @OBS@
#define POLICY_ACTIONS @ACTIONS@
#define POLICY_HIDDEN @HIDDEN@

/* One agent's memory. */
typedef struct {
    float hidden[POLICY_HIDDEN]; /* recurrent state */
    float q[POLICY_ACTIONS];     /* action values of the last decision */
    int last_action;             /* -1: none yet */
} policy_state;

/* What policy_act returns when it refuses. The state is as it was. */
enum {
    POLICY_OBS_NOT_FINITE = -1, /* an observation is NaN or infinite */
    POLICY_NO_ACTION = -2,      /* no action is available */
    POLICY_OVERFLOW = -3        /* observations so large that float overflows */
};

/* Forget the episode: before the first decision, and at each new episode. */
void policy_reset(policy_state *state);

/* The available action with the largest value, the lowest of equals, or one of the refusals above.
 * obs has POLICY_OBS values; avail has POLICY_ACTIONS flags (not 0: available), or is NULL: all are. */
int policy_act(policy_state *state, const float *obs, const uint8_t *avail);

#ifdef __cplusplus
}
#endif

#endif
"""

SOURCE_START = """\
/* The policy of @AGENT@. Made by mast export: change the training run, not this file. */
#include "policy.h"

#include <stddef.h>

enum { OBS = POLICY_OBS, ACTIONS = POLICY_ACTIONS, HIDDEN = POLICY_HIDDEN, INPUTS = @INPUTS@, FC1 = @FC1@ };
"""

ACTIVATIONS = """\
typedef union {
    float value;
    uint32_t bits;
} float_bits;

/* By its bits, so that no compiler option can assume the answer. */
static int finite_value(float value)
{
    const float_bits f = {value};
    return (f.bits & 0x7f800000u) != 0x7f800000u;
}

static int all_finite(const float *values, int size)
{
    for (int i = 0; i < size; i++)
        if (!finite_value(values[i]))
            return 0;
    return 1;
}

/* x within +-limit; NaN stays NaN. */
static float clamp(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

/* Rational fits, off by less than 6e-7 (tanh) and 4e-7 (sigmoid). */
static float tanh_fit(float x)
{
    x = clamp(x, 7.9f);
    const float u = x * x;
    const float above = ((1.141467965e-05f * u + 2.948511858e-03f) * u + 1.292268634e-01f) * u + 9.999994040e-01f;
    const float below =
        (((2.457241237e-07f * u + 2.383954416e-04f) * u + 2.380351350e-02f) * u + 4.625580609e-01f) * u + 1.0f;
    return x * above / below;
}

static float sigmoid_fit(float x)
{
    x = clamp(x, 15.8f);
    const float u = x * x;
    const float above = ((4.458859237e-08f * u + 4.607049777e-05f) * u + 8.076678962e-03f) * u + 2.499998510e-01f;
    const float below =
        (((9.598598583e-10f * u + 3.724928774e-06f) * u + 1.487719594e-03f) * u + 1.156395152e-01f) * u + 1.0f;
    return x * above / below + 0.5f;
}
"""

HALF = """\
/* IEEE half precision to float, exactly. */
static float from_half(uint16_t half)
{
    const uint32_t h = half;
    float_bits f;
    f.bits = (h & 0x8000u) << 16 | (h & 0x7fffu) << 13;
    return f.value * 5.192296858534828e+33f; /* 2^112, the difference of the exponents' biases */
}
"""

ACT = """\
static void copy(float *to, const float *from, int size)
{
    for (int i = 0; i < size; i++)
        to[i] = from[i];
}

/* gates: n's input part, r, z, n's recurrent part. The new recurrent state takes the first one's place. */
static void gru(float *gates, const float *hidden)
{
    for (int i = 0; i < HIDDEN; i++) {
        const float r = sigmoid_fit(gates[HIDDEN + i]), z = sigmoid_fit(gates[2 * HIDDEN + i]);
        const float n = tanh_fit(gates[i] + r * gates[3 * HIDDEN + i]);
        gates[i] = n + z * (hidden[i] - n);
    }
}

static int best_action(const float *q, const uint8_t *avail)
{
    int best = POLICY_NO_ACTION;
    for (int a = 0; a < ACTIONS; a++)
        if ((avail == NULL || avail[a]) && (best < 0 || q[a] > q[best]))
            best = a;
    return best;
}

void policy_reset(policy_state *state)
{
    for (int i = 0; i < HIDDEN; i++)
        state->hidden[i] = 0.0f;
    for (int a = 0; a < ACTIONS; a++)
        state->q[a] = 0.0f;
    state->last_action = -1;
}

int policy_act(policy_state *state, const float *obs, const uint8_t *avail)
{
    float x[INPUTS], y[@Y_SIZE@], gates[@GATES_SIZE@], q[@Q_SIZE@];

    for (int i = 0; i < OBS; i++) {
        if (!finite_value(obs[i]))
            return POLICY_OBS_NOT_FINITE;
        x[i] = obs[i];
    }
@LAST_ACTION@
    copy(y, fc1_bias, @Y_SIZE@);
    @FC1_CALL@
    if (!all_finite(y, FC1))
        return POLICY_OVERFLOW;
    for (int i = 0; i < FC1; i++)
        y[i] = y[i] > 0.0f ? y[i] : 0.0f;

    copy(gates, gru_bias, @GATES_SIZE@);
    @WEIGHT_IH_CALL@
    @WEIGHT_HH_CALL@
    gru(gates, state->hidden);

    copy(q, fc2_bias, @Q_SIZE@);
    @FC2_CALL@
    if (!all_finite(gates, HIDDEN) || !all_finite(q, ACTIONS))
        return POLICY_OVERFLOW;

    const int action = best_action(q, avail);
    if (action >= 0) {
        copy(state->hidden, gates, HIDDEN);
        copy(state->q, q, ACTIONS);
        state->last_action = action;
    }
    return action;
}
"""

LAST_ACTION = """\
    for (int a = 0; a < ACTIONS; a++)
        x[OBS + a] = a == state->last_action ? 1.0f : 0.0f;
"""

TEST = """\
/* The recorded episode through the policy: `make test`. With an argument it prints every step's action, then q and the
 * recurrent state as the bits of their floats, and checks nothing. */
#include "policy.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>

static int failures;

static void expect(int holds, const char *what, int step)
{
    if (!holds) {
        printf("step %d: %s\\n", step, what);
        failures++;
    }
}

static void print_bits(const float *values, int size)
{
    for (int i = 0; i < size; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        printf(" %08lx", (unsigned long)bits);
    }
}

static float largest_difference(const float *a, const float *b, int size)
{
    float largest = 0.0f;
    for (int i = 0; i < size; i++) {
        const float difference = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
        if (!(difference <= largest))
            largest = difference;
    }
    return largest;
}

/* What must be refused leaves the state as it was. */
static void check_refusals(policy_state *state)
{
    static const uint32_t bad[] = {0x7fc00000u, 0x7f800000u, 0xff800000u};
    static const uint8_t none[POLICY_ACTIONS];
    const policy_state before = *state;
    for (unsigned i = 0; i < 3 * POLICY_OBS; i++) {
        float obs[POLICY_OBS];
        memcpy(obs, trace_obs[0], sizeof obs);
        memcpy(obs + i / 3, bad + i % 3, sizeof *obs);
        expect(policy_act(state, obs, NULL) == POLICY_OBS_NOT_FINITE, "accepts an observation that is not finite", 0);
    }
    expect(policy_act(state, trace_obs[0], none) == POLICY_NO_ACTION, "acts where no action is available", 0);
    expect(memcmp(&before, state, sizeof before) == 0, "a refusal changes the state", 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    policy_state state;
    policy_reset(&state);
    for (int t = 0; t < TRACE_STEPS; t++) {
        state.last_action = trace_last_action[t];
        const int action = policy_act(&state, trace_obs[t], trace_avail[t]), expected = trace_action[t];
        if (argc > 1) {
            printf("%d", action);
            print_bits(state.q, POLICY_ACTIONS);
            print_bits(state.hidden, POLICY_HIDDEN);
            printf("\\n");
            continue;
        }
        expect(action >= 0 && action < POLICY_ACTIONS, "no action", t);
        if (action < 0 || action >= POLICY_ACTIONS)
            break;
        const float *const q = trace_q[t];
        expect(q[action] >= q[expected] - TRACE_Q_TOLERANCE, "another action", t);
        expect(largest_difference(state.q, q, POLICY_ACTIONS) <= TRACE_Q_TOLERANCE, "q differs", t);
    }
    if (argc > 1)
        return 0;
    expect(largest_difference(state.hidden, trace_hidden, POLICY_HIDDEN) <= TRACE_HIDDEN_TOLERANCE,
           "the recurrent state differs", TRACE_STEPS - 1);
    check_refusals(&state);
    printf("%d steps: %s\\n", TRACE_STEPS, failures ? "FAILED" : "the actions and values of the runtime");
    return failures != 0;
}
"""

MAKEFILE = """\
# make test   the recorded episode through the policy, on this machine
# make bits   the same with every bit printed; with CFLAGS="-O2 -ffp-contract=off" they are equal on every IEEE machine

CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra

.PHONY: test bits clean

test: policy_test
	./policy_test

bits: policy_test
	./policy_test bits

policy_test: policy.c policy.h test.c trace.h
	$(CC) -std=c99 $(CFLAGS) -o $@ policy.c test.c

clean:
	rm -f policy_test
"""
